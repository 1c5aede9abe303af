//! A process of the load, and the conversation with it.

use crate::load::order::{Answer, Order};
use anyhow::{Context as _, Result};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A running `bench-load`. It ends when this value is dropped.
#[derive(Debug)]
pub struct Load {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Load {
    /// Starts it: `command` is all but its arguments, whatever it takes to run it where it belongs.
    pub fn start(mut command: Command, cpu: usize) -> Result<Self> {
        let mut child = command
            .arg("--cpu")
            .arg(cpu.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the load")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, input, output })
    }

    /// Starts one that serves.
    pub fn serve(command: Command, cpu: usize) -> Result<Self> {
        let mut load = Self::start(command, cpu)?;
        load.order(&Order::Serve)?.done()?;
        Ok(load)
    }

    /// Has an order carried out.
    pub fn order(&mut self, order: &Order) -> Result<Answer> {
        self.send(order)?;
        self.receive()
    }

    /// Gives an order without waiting for its answer.
    pub fn send(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.input.write_all(&line).context("the load is gone")
    }

    /// Waits for the next answer.
    pub fn receive(&mut self) -> Result<Answer> {
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        serde_json::from_str(&answer).context("the load has ended")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

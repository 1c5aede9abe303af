//! The load: what sends, what answers, and what they are told.
//!
//! It is the binary `bench-load`, one process for each namespace, all on one CPU. Requests are one
//! byte and so are answers, threads block in the kernel, and nothing is parsed: what takes time is
//! the way of the packets.

mod client;
mod frames;
mod open_loop;
pub mod order;
mod server;

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use order::{Answer, Order};
use std::io::{BufRead as _, Write as _, stdin, stdout};

/// Carries out the orders that come by standard input, one JSON value a line, on one CPU, until the
/// input ends.
pub fn run(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).context("choose a CPU")?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("stay on CPU {cpu}"))?;
    for line in stdin().lock().lines() {
        let order = serde_json::from_str(&line.context("read an order")?)?;
        let answer = perform(&order).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        let mut out = stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

fn perform(order: &Order) -> Result<Answer> {
    match order {
        Order::Serve => server::start().map(|()| Answer::Done),
        Order::Work(work) => client::work(work).map(Answer::Report),
        Order::Await { to, open, patience } => {
            client::wait_until(*to, *open, *patience).map(|()| Answer::Done)
        }
    }
}

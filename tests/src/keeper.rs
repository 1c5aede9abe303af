//! The process that outlives the lab's owner and clears up after it.
//!
//! It waits for the end of its standard input, whose other end only the owner holds: a drop, an
//! exit and a kill -9 of the owner all end there. It is outside the lab's cgroup, and in a process
//! group of its own, so that what ends the owner does not end it.

use crate::host;
use anyhow::{Context as _, Result, ensure};
use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _, stdin, stdout},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

/// The owner's side: the lab lives as long as this value.
#[derive(Debug)]
pub struct Keeper(Child);

impl Keeper {
    /// Starts the keeper of the lab in `folder` and returns when it is on watch.
    pub fn start(folder: &Path) -> Result<Self> {
        let log = OpenOptions::new().append(true).create(true).open(folder.join("keeper.log"))?;
        let mut child = Command::new(host::pod_binary()?)
            .arg("keep")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("start the keeper")?;
        let mut greeting = [0];
        let output = child.stdout.as_mut().context("no standard output")?;
        output.read_exact(&mut greeting).context("the keeper did not start")?;
        Ok(Self(child))
    }

    /// Has everything cleared up and waits for it.
    pub fn finish(&mut self) -> Result<()> {
        let Self(child) = self;
        child.stdin.take();
        let status = child.wait().context("wait for the keeper")?;
        ensure!(status.success(), "the lab was not cleared up completely: keeper {status}");
        Ok(())
    }
}

/// The keeper itself.
pub fn run(folder: &Path) -> Result<()> {
    let _lock = host::lock_folder(folder)?.context("the lab has a keeper already")?;
    stdout().write_all(b"k")?;
    stdout().flush()?;
    let mut rest = Vec::new();
    stdin().read_to_end(&mut rest).ok();
    host::clear(folder)
}

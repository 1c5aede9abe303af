//! The small program behind the lab: `pod` lives in a namespace, `run` runs a command in one,
//! `keep` clears up after a lab whose owner is gone.

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use nix::sched::{CloneFlags, setns, unshare};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Parser)]
enum Role {
    /// Hold a namespace, serve in it and ask from it.
    Pod {
        /// Name that the servers answer with.
        #[arg(long)]
        name: String,
        /// Folder of the cgroup to be in.
        #[arg(long)]
        cgroup: PathBuf,
        /// Network namespace to be in; a new one without this.
        #[arg(long)]
        net: Option<PathBuf>,
    },
    /// Run a command in a namespace and a cgroup.
    Run {
        /// Network namespace.
        #[arg(long)]
        net: PathBuf,
        /// Folder of the cgroup.
        #[arg(long)]
        cgroup: PathBuf,
        /// Program and arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Clear up the lab in this folder when standard input ends.
    Keep {
        /// The lab's folder.
        folder: PathBuf,
    },
}

fn main() -> Result<()> {
    match Role::parse() {
        Role::Pod { name, cgroup, net } => {
            join_cgroup(&cgroup)?;
            match net {
                Some(net) => join_net(&net)?,
                None => unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?,
            }
            lab::pod::run(&name)
        }
        Role::Run { net, cgroup, command } => {
            join_cgroup(&cgroup)?;
            join_net(&net)?;
            let (program, arguments) = command.split_first().context("no command")?;
            let error = Command::new(program).args(arguments).exec();
            Err(anyhow!(error).context(format!("run {program}")))
        }
        Role::Keep { folder } => lab::keeper::run(&folder),
    }
}

/// Moves this process; children inherit it.
fn join_cgroup(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("enter the cgroup {}", cgroup.display()))
}

fn join_net(path: &Path) -> Result<()> {
    let net = File::open(path).with_context(|| format!("open {}", path.display()))?;
    setns(net, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))
}

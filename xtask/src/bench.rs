//! `cargo xtask bench`: the benchmark. The program itself is `bench` of the package `datapath-bench`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::setup::{self, Need};
use crate::{build, paths};

/// Where the clusters run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum On {
    /// Network namespaces of this machine.
    Lab,
}

/// How to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the clusters run
    #[arg(long, value_enum, default_value_t = On::Lab)]
    on: On,
    /// About three minutes instead of at most forty
    #[arg(long)]
    quick: bool,
    /// Only measures whose name contains this, and no scale unless --services is given; can be repeated
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Numbers of Services in growing order
    #[arg(long, value_name = "NUMBER,NUMBER")]
    services: Option<String>,
    /// Folder for report.html, report.json and benchmarks.md
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    output: PathBuf,
    /// Write docs/benchmarks.md and docs/plots anew
    #[arg(long)]
    write: bool,
}

/// Becomes the benchmark, with the product in its release profile.
///
/// # Errors
///
/// When set-up or a build fails.
pub(crate) fn become_bench(options: &Options) -> Result<()> {
    let Options { on: On::Lab, quick, only, services, output, write } = options;
    setup::ensure(Need::Lab)?;
    build::for_tests()?;
    let product = build::product(false)?;
    let program = paths::cargo_target().join("debug/bench");
    let mut command = Command::new(&program);
    if *quick {
        command.arg("--quick");
    }
    for part in only {
        command.args(["--only", part]);
    }
    if let Some(services) = services {
        command.args(["--services", services]);
    }
    if *write {
        command.arg("--docs").arg(paths::root().join("docs"));
    }
    let error = command
        .arg("--output")
        .arg(output)
        .env(crate::test::BINARY_VARIABLE, product)
        .env(paths::CONTROL_PLANE_VARIABLE, paths::control_plane())
        .exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

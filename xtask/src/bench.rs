//! `cargo xtask bench`: the benchmark. The program itself is `bench` of the package `datapath-bench`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::kind::{self, bench::Bench};
use crate::setup::{self, Need};
use crate::{build, paths, process};

/// Where the clusters run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum On {
    /// Network namespaces of this machine.
    Lab,
    /// A kind cluster that is there, with the proxy it has: Services against the addresses of pods.
    Kind,
}

/// How to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the clusters run
    #[arg(long, value_enum, default_value_t = On::Lab)]
    on: On,
    /// About five minutes instead of forty
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
    #[command(flatten)]
    kind: kind::Options,
}

/// Runs the benchmark, with the product in its release profile.
///
/// # Errors
///
/// When set-up, a build or the benchmark fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { on, quick, only, services, output, write, kind } = options;
    ensure!(
        *on == On::Lab || !*write,
        "--write is for the lab: other machines have no such cluster"
    );
    setup::ensure(Need::Lab)?;
    build::for_tests()?;
    let mut command = Command::new(paths::cargo_target().join("debug/bench"));
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
    command.arg("--output").arg(output);
    command.env(paths::CONTROL_PLANE_VARIABLE, paths::control_plane());
    match on {
        On::Lab => {
            command.env(crate::test::BINARY_VARIABLE, build::product(false)?);
            process::run(&mut command)
        }
        On::Kind => {
            let bench = Bench::prepare(kind)?;
            command.arg("--cluster").arg(bench.describe()?);
            process::run(&mut command)
        }
    }
}

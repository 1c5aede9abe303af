//! `cargo xtask bench`.

use anyhow::Result;
use bench::run::{Options, run};
use clap::Parser;
use std::path::PathBuf;

/// Measure datapath, kube-proxy and bare routing side by side in the lab
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    /// About five minutes instead of forty
    #[arg(long)]
    quick: bool,
    /// Only measures whose name contains this, and no scale unless --services is given; can be repeated
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Numbers of Services in growing order
    #[arg(long, value_name = "NUMBER,NUMBER", value_delimiter = ',')]
    services: Vec<usize>,
    /// Folder for report.html, report.json and benchmarks.md
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    output: PathBuf,
    /// Folder for benchmarks.md and its plots alone
    #[arg(long, value_name = "FOLDER")]
    docs: Option<PathBuf>,
    /// Measure in a cluster that is there, which this file describes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["docs", "services"])]
    cluster: Option<PathBuf>,
}

fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::new("warn,kube_client=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Cli { quick, only, services, output, docs, cluster } = Cli::parse();
    run(&Options { quick, only, services, output, docs, cluster })
}

//! The load of the benchmark: see [`bench::load`].

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
struct Options {
    /// The CPU to stay on
    #[arg(long)]
    cpu: usize,
}

fn main() -> Result<()> {
    bench::load::run(Options::parse().cpu)
}

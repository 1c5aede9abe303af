//! The differential test by hand, for longer than `cargo xtask test` gives it.

use anyhow::Result;
use clap::Args;

use crate::test::{self, Suite};

#[derive(Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The history to begin with, as a failure prints it; a random one without this
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the test.
///
/// # Errors
///
/// When set-up or a build fails, or the two differ.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { minutes, seed } = options;
    let mut arguments = vec![format!("--minutes={minutes}")];
    arguments.extend(seed.map(|seed| format!("--seed={seed}")));
    test::run(&[Suite::Differential], &arguments)
}

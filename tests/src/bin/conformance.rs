//! The conformance matrix: `cargo xtask conformance`.

use anyhow::{Context as _, Result};
use clap::Parser;
use lab::{
    conformance::{self, Column, cases, report::Matrix, world::World},
    suite::{self, AT_SECOND_RUN},
};
use std::{
    fs,
    io::{Write as _, stdout},
    path::Path,
    process::ExitCode,
};

/// Run the table of Service behaviours against ours and against kube-proxy.
#[derive(Parser)]
#[command(name = "cargo xtask conformance")]
struct Options {
    /// Only against this proxy (ours, ours-tc, ours-xdp, nftables, iptables); may be given several times.
    #[arg(long)]
    proxy: Vec<Column>,
    /// Write the page docs/conformance.md.
    #[arg(long)]
    write: bool,
    /// Only cases with this in their name, section or title.
    filter: Vec<String>,
}

fn main() -> ExitCode {
    suite::log();
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as the table says.
fn run(options: &Options) -> Result<bool> {
    let Options { proxy, write, filter } = options;
    let cases = cases::select(filter);
    let columns = if proxy.is_empty() { &Column::ALL[..] } else { proxy };
    let world = World::up()?;
    let mut matrix = Matrix::default();
    for column in columns {
        let outcomes = conformance::run(&world, *column, &cases, |case, outcome| {
            if let (Some(first), true) = (&outcome.first, outcome.is_good()) {
                say(&format!("{AT_SECOND_RUN}: {}: {first}", case.name));
            }
            let came_to = if outcome.is_good() { "ok" } else { "FAILED" };
            let seconds = outcome.time.as_secs_f64();
            say(&format!("{column} {} {came_to} ({seconds:.1} s)", case.name));
            outcome.problems().for_each(|problem| say(&format!("    {problem}")));
        })?;
        matrix.columns.insert(*column, outcomes);
    }
    world.lab.down()?;
    say(&matrix.print(&cases)?);
    if *write {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
        let page = matrix.page(&cases)?;
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(matrix.failures().next().is_none())
}

/// Writes a line at once; a closed output is no reason to stop.
fn say(text: &str) {
    let mut out = stdout().lock();
    writeln!(out, "{text}").ok();
    out.flush().ok();
}

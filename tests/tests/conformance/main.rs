//! The conformance table as a test suite: every case against ours, with and without socket hooks, and
//! against kube-proxy in both modes, so that the table stays true on both sides.

use anyhow::Result;
use lab::{
    conformance::{self, Column, cases, report::Matrix, world::World},
    suite::{self, Suite},
};
use std::{
    fs,
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

/// Where a whole run leaves the page that `cargo xtask conformance --write` would write.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/conformance.md");

fn main() -> ExitCode {
    suite::main("conformance", suite::unable, run)
}

fn run(suite: &mut Suite) -> Result<()> {
    let world = World::up()?;
    let mut matrix = Matrix::default();
    for column in Column::ALL {
        suite.group(&format!("conformance::{column}"));
        let mut cases = cases::all();
        cases.retain(|case| suite.wants(case.name));
        let shared = Mutex::new(&mut *suite);
        let outcomes = conformance::run(&world, column, &cases, |case, outcome| {
            let mut suite = shared.lock().unwrap_or_else(PoisonError::into_inner);
            suite.record(case.name, outcome.of_case());
        })?;
        matrix.columns.insert(column, outcomes);
    }
    world.lab.down()?;
    let cases = cases::all();
    if matrix.columns.values().all(|outcomes| outcomes.len() == cases.len()) {
        fs::write(Path::new(PAGE), matrix.page(&cases)?)?;
    }
    Ok(())
}

//! The conformance table as a test suite: every case against ours, with and without socket hooks, and
//! against kube-proxy in both modes, so that the table stays true on both sides.

use anyhow::Result;
use lab::{
    conformance::{self, Column, cases, world::World},
    suite::{self, Suite},
};
use std::{
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

fn main() -> ExitCode {
    suite::main("conformance", suite::unable, run)
}

fn run(suite: &mut Suite) -> Result<()> {
    let world = World::up()?;
    for column in Column::ALL {
        suite.group(&format!("conformance::{column}"));
        let mut cases = cases::all();
        cases.retain(|case| suite.wants(case.name));
        let shared = Mutex::new(&mut *suite);
        conformance::run(&world, column, &cases, |case, outcome| {
            let mut suite = shared.lock().unwrap_or_else(PoisonError::into_inner);
            suite.record(case.name, outcome.of_case());
        })?;
    }
    world.lab.down()
}

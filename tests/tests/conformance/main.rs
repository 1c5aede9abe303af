//! The conformance table as a test suite: every case against ours, with and without socket hooks, and
//! against kube-proxy in both modes, so that the table stays true on both sides.

use anyhow::{Result, bail};
use lab::{
    conformance::{self, Column, Outcome, cases, world::World},
    control, host, proxy,
    suite::Suite,
};
use std::{
    env,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::new("warn,kube_client=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut suite = Suite::from_arguments();
    if let Some(reason) = unable() {
        suite.ignore("conformance", &reason);
        return suite.finish();
    }
    if let Err(error) = run(&mut suite) {
        suite.case("lab", || Err(error));
    }
    suite.finish()
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
            suite.record(case.name, outcome.time, result(outcome));
        })?;
    }
    world.lab.down()
}

fn result(outcome: &Outcome) -> Result<()> {
    if outcome.is_good() {
        return Ok(());
    }
    bail!("{}", outcome.problems().collect::<Vec<_>>().join("\n"))
}

/// Why the suite cannot run here.
fn unable() -> Option<String> {
    if env::var_os("DATAPATH_BIN").is_none() {
        return Some("DATAPATH_BIN is not set: `cargo xtask test` builds and sets it".to_owned());
    }
    host::missing()
        .or_else(|| control::programs().err().map(|error| error.to_string()))
        .or_else(|| proxy::datapath_binary().err().map(|error| error.to_string()))
}

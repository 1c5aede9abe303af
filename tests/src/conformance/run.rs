//! Runs the table against one proxy.

use super::{
    Column,
    case::{Case, Setup},
    trial::Trial,
    world::World,
};
use crate::space::lock;
use anyhow::Result;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Cases that run side by side: most of their time is waiting.
const WORKERS: usize = 16;

/// What came of a case in one column.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of each expectation and check: nothing, or what was seen in its place.
    pub steps: Vec<Result<(), String>>,
    /// Why the case could not be carried out.
    pub broken: Option<String>,
    /// How long it took.
    pub time: Duration,
}

impl Outcome {
    /// Whether everything was as the table says.
    pub fn is_good(&self) -> bool {
        self.broken.is_none() && self.steps.iter().all(Result::is_ok)
    }

    /// Everything that was not.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        let steps = self.steps.iter().filter_map(|step| step.as_ref().err());
        steps.chain(&self.broken).map(String::as_str)
    }
}

/// Runs all cases in a column and tells `done` of each as it ends.
pub fn run(
    world: &World,
    column: Column,
    cases: &[Case],
    done: impl Fn(&Case, &Outcome) + Sync,
) -> Result<BTreeMap<&'static str, Outcome>> {
    let outcomes = Mutex::new(BTreeMap::new());
    let one = |case: &Case| {
        let outcome = attempt(world, column, case);
        done(case, &outcome);
        lock(&outcomes).insert(case.name, outcome);
    };
    for setup in Setup::ALL {
        let (alone, together): (Vec<_>, Vec<_>) =
            cases.iter().filter(|case| case.setup == setup).partition(|case| case.alone);
        if alone.is_empty() && together.is_empty() {
            continue;
        }
        world.start(column.kind(), setup)?;
        side_by_side(&together, &one);
        alone.into_iter().for_each(&one);
        world.lab.stop_proxies()?;
    }
    Ok(outcomes.into_inner().unwrap_or_default())
}

fn side_by_side(cases: &[&Case], one: &(impl Fn(&Case) + Sync)) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one(case);
                }
            });
        }
    });
}

fn attempt(world: &World, column: Column, case: &Case) -> Outcome {
    let start = Instant::now();
    let trial = Trial::new(world, column, case);
    let result = catch_unwind(AssertUnwindSafe(|| trial.run()))
        .unwrap_or_else(|_panic| Err(anyhow::anyhow!("panicked, see above")));
    let cleared = trial.clear();
    let (steps, broken) = match (result, cleared) {
        (Ok(steps), Ok(())) => (steps, None),
        (Ok(steps), Err(error)) => (steps, Some(format!("clearing up: {error:#}"))),
        (Err(error), _) => (Vec::new(), Some(format!("{error:#}"))),
    };
    Outcome { steps, broken, time: start.elapsed() }
}

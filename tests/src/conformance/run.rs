//! Runs the table against one proxy.
//!
//! Cases that fail are run once more, when all others are through: see [`suite`](crate::suite).

use super::{
    Column,
    case::{Case, Setup},
    trial::Trial,
    world::World,
};
use crate::{space::lock, suite};
use anyhow::{Error, Result, anyhow};
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
    /// What was wrong at the first run, where this is the second.
    pub first: Option<String>,
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

    /// Everything that was not, as one text.
    fn text(&self) -> String {
        self.problems().collect::<Vec<_>>().join("\n")
    }

    /// As suites know it.
    pub fn of_case(&self) -> suite::Outcome {
        suite::Outcome {
            first: self.first.clone(),
            result: if self.is_good() { Ok(()) } else { Err(Error::msg(self.text())) },
            time: self.time,
        }
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
    let finish = |case: &Case, outcome: Outcome| {
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
        let failed = Mutex::new(Vec::new());
        let one = |case: &Case| {
            let outcome = attempt(world, column, case);
            if outcome.is_good() {
                finish(case, outcome);
            } else {
                lock(&failed).push((case.name, outcome));
            }
        };
        side_by_side(&together, &one);
        alone.iter().copied().for_each(&one);
        let failed: BTreeMap<_, _> = failed.into_inner().unwrap_or_default().into_iter().collect();
        for case in together.into_iter().chain(alone) {
            if let Some(first) = failed.get(case.name) {
                finish(case, second_attempt(world, column, case, first));
            }
        }
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
        .unwrap_or_else(|_panic| Err(anyhow!("panicked, see above")));
    let cleared = trial.clear();
    // Those that run side by side leave alone what all share.
    let cleared = if case.alone { cleared.and_then(|()| world.settle_nodes()) } else { cleared };
    let (steps, broken) = match (result, cleared) {
        (Ok(steps), Ok(())) => (steps, None),
        (Ok(steps), Err(error)) => (steps, Some(format!("clearing up: {error:#}"))),
        (Err(error), _) => (Vec::new(), Some(format!("{error:#}"))),
    };
    Outcome { steps, broken, first: None, time: start.elapsed() }
}

fn second_attempt(world: &World, column: Column, case: &Case, first: &Outcome) -> Outcome {
    let mut outcome = match world.renew() {
        Ok(()) => attempt(world, column, case),
        Err(error) => Outcome {
            steps: Vec::new(),
            broken: Some(format!("putting the lab in order: {error:#}")),
            first: None,
            time: Duration::ZERO,
        },
    };
    outcome.first = Some(first.text());
    outcome.time += first.time;
    outcome
}

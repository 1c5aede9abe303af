//! Histories, probes, and what to tell when one of them shows a difference.

use crate::{
    probe::{Draw, Probe, Seen, draw},
    side::{Side, own_addresses},
};
use anyhow::{Result, bail};
use lab::semantics::{
    Journey,
    facts::{Cluster, Object, Service, Slice, Step},
    history::{self, Kind, beginning, is_clear},
    run,
};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree as _},
    test_runner::Config,
};
use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Batches of changes in a history, at most.
const BATCHES: usize = 5;
/// Probes after every batch.
const PROBES: usize = 48;
/// Probes under way at once on each side.
const PARALLEL: usize = 16;
/// Before a difference counts it is looked at once more, this much later.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Both sides, and what was seen so far.
pub(crate) struct Hunt {
    oracle: Side,
    ours: Side,
    own: Vec<(String, Vec<IpAddr>)>,
    cluster: Cluster,
    histories: u32,
    batches: u32,
    probes: u32,
    late: u32,
}

/// A probe that showed something wrong.
struct Difference {
    probe: Probe,
    text: String,
}

impl Hunt {
    pub(crate) fn new(oracle: Side, ours: Side) -> Self {
        Self {
            oracle,
            ours,
            own: own_addresses(),
            cluster: beginning(),
            histories: 0,
            batches: 0,
            probes: 0,
            late: 0,
        }
    }

    /// What was done, in one line.
    pub(crate) fn figures(&self) -> String {
        let Self { histories, batches, probes, late, .. } = self;
        format!(
            "{histories} histories, {batches} batches of changes, {probes} probes of each side, \
             {late} right only at a second look"
        )
    }

    /// Plays the history of a seed; an error shows the smallest cluster with a difference.
    pub(crate) fn history(&mut self, seed: u64, deadline: Instant) -> Result<()> {
        let mut runner = run::runner(Config::default(), seed);
        let probes = vec(draw(), PROBES);
        let histories = vec((history::batch(Kind::Live), probes), 1..=BATCHES);
        let Ok(tree) = histories.new_tree(&mut runner) else { bail!("no history") };
        self.clear()?;
        self.histories += 1;
        for (number, (batch, draws)) in tree.current().into_iter().enumerate() {
            if Instant::now() > deadline {
                break;
            }
            self.take(&batch)?;
            self.batches += 1;
            if let Some(difference) = self.compare(&draws)? {
                return self.report(difference, number);
            }
        }
        Ok(())
    }

    /// Begins anew.
    fn clear(&mut self) -> Result<()> {
        let gone = self.cluster.objects().into_iter().filter_map(|object| match object {
            Object::Service(_) | Object::Slice(_) => Some(Step::Delete(object.name())),
            Object::Node(_) | Object::ServiceCidr(_) => None,
        });
        let nodes = beginning()
            .nodes
            .into_values()
            .filter(|node| self.cluster.nodes.get(&node.name) != Some(node));
        let nodes: Vec<_> = nodes.map(|node| Step::Put(Object::Node(node))).collect();
        let steps: Vec<_> = gone.chain(nodes).collect();
        self.take(&steps)
    }

    /// Takes those steps that leave the cluster clear, on both sides.
    fn take(&mut self, steps: &[Step]) -> Result<()> {
        let mut taken = Vec::new();
        for step in steps {
            let mut next = self.cluster.clone();
            next.take(step);
            if is_clear(&next) && next != self.cluster {
                self.cluster = next;
                taken.push(step.clone());
            }
        }
        let (oracle, ours) = (&mut self.oracle, &mut self.ours);
        thread::scope(|scope| {
            let oracle = scope.spawn(|| oracle.take(&taken));
            let ours = ours.take(&taken);
            oracle.join().unwrap_or_else(|_panic| bail!("a side panicked")).and(ours)
        })
    }

    /// The first difference that stays.
    fn compare(&mut self, draws: &[Draw]) -> Result<Option<Difference>> {
        let probes: Vec<_> = draws.iter().filter_map(|draw| draw.probe(&self.cluster)).collect();
        self.probes += probes.len() as u32;
        let doubtful = self.doubtful(&probes)?;
        if doubtful.is_empty() {
            return Ok(None);
        }
        thread::sleep(SECOND_LOOK);
        for first in doubtful {
            if let Some(difference) = self.look(&first.probe)? {
                return Ok(Some(difference));
            }
            self.late += 1;
            println!("right only at a second look: {}\n{}", first.probe, first.text);
        }
        Ok(None)
    }

    /// The probes that show a difference.
    fn doubtful(&self, probes: &[Probe]) -> Result<Vec<Difference>> {
        let next = Mutex::new(probes.iter());
        let found = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| {
                    loop {
                        let probe = next.lock().ok().and_then(|mut next| next.next());
                        let Some(probe) = probe else { break };
                        let looked = self.look(probe);
                        let Ok(mut found) = found.lock() else { break };
                        found.extend(looked.transpose());
                    }
                });
            }
        });
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.into_iter().collect()
    }

    /// Puts one probe to both sides.
    fn look(&self, probe: &Probe) -> Result<Option<Difference>> {
        let ask = |side: &Side| -> Result<(Journey, Seen)> {
            let expected = probe.expect(&self.cluster, side, &self.own);
            let seen = probe.ask(side, &expected)?;
            Ok((expected, seen))
        };
        let (oracle, ours) = thread::scope(|scope| {
            let oracle = scope.spawn(|| ask(&self.oracle));
            let ours = ask(&self.ours);
            (oracle.join().unwrap_or_else(|_panic| bail!("a probe panicked")), ours)
        });
        let mut text = String::new();
        let mut wrong = false;
        for (side, outcome) in [(&self.oracle, oracle), (&self.ours, ours)] {
            let (expected, seen) = outcome?;
            let problem = seen.problem(&expected);
            wrong |= problem.is_some();
            let problem = problem.unwrap_or_else(|| "as the model says".to_owned());
            writeln!(text, "  {}: {seen}: {problem}", side.name)?;
            writeln!(text, "    the model: {expected}")?;
        }
        Ok(wrong.then_some(Difference { probe: *probe, text }))
    }

    /// Takes away whatever is not needed for the difference, and tells of it.
    fn report(&mut self, first: Difference, batch: usize) -> Result<()> {
        let mut difference = first;
        for object in self.cluster.objects() {
            let name = object.name();
            if ![Service::KIND, Slice::KIND].contains(&name.kind) {
                continue;
            }
            self.take(&[Step::Delete(name)])?;
            thread::sleep(SECOND_LOOK);
            match self.look(&difference.probe)? {
                Some(still) => difference = still,
                None => self.take(&[Step::Put(object)])?,
            }
        }
        let mut objects = String::new();
        let there = beginning().objects();
        for object in self.cluster.objects().iter().filter(|object| !there.contains(object)) {
            writeln!(objects, "  {}", object.json())?;
        }
        bail!(
            "after batch {batch}: {}\n{}with these objects:\n{objects}",
            difference.probe,
            difference.text
        )
    }
}

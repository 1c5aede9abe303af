//! Carries an expectation out: everyone asks at once, until what must come of it does.

use super::{
    case::{Expect, Seen, Want},
    place::{Client, ClientKind, Target, UDP, Way},
    trial::Trial,
};
use crate::{
    proto::{Ask, Verdict},
    topology::{Family, NodeSpec, OUTSIDE_ADDRESS},
};
use anyhow::{Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

/// How long what is expected may take once the proxies have seen all changes.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long silence lasts until it counts.
const SILENCE: Duration = Duration::from_millis(400);
/// How long a refusal may take: an IPv6 client of netfilter hears of it with its second packet.
const REFUSAL: Duration = Duration::from_millis(2500);
/// Requests after which an unexpected backend would have shown itself.
const REQUESTS: u32 = 12;
/// Requests after which a backend that has not answered does not.
const MOST: u32 = 96;

/// One client, one way.
#[derive(Clone, Copy)]
struct Probe {
    client: Client,
    target: Target,
    way: Way,
    family: Family,
}

/// Nothing, or what was seen in place of what was expected.
pub(super) fn carry_out(trial: &Trial<'_>, expect: &Expect) -> Result<(), String> {
    let Expect { clients, target, ways, families, want, unlike: _ } = expect;
    let probes = clients.iter().flat_map(|client| {
        families.iter().flat_map(move |family| {
            ways.iter().map(move |way| Probe {
                client: *client,
                target: *target,
                way: *way,
                family: *family,
            })
        })
    });
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    thread::scope(|scope| {
        let tasks: Vec<_> =
            probes.map(|probe| (probe, scope.spawn(move || probe.until(trial, expect)))).collect();
        for (Probe { client, way, family, .. }, task) in tasks {
            let result = task.join().unwrap_or_else(|_panic| Err("panicked, see above".to_owned()));
            if let Err(what) = result {
                seen.entry(what).or_default().push(format!("{} {way} IP{family}", client.label));
            }
        }
    });
    if seen.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> =
        seen.into_iter().map(|(what, who)| format!("{what} ({})", who.join(", "))).collect();
    Err(format!("{expect}: not {want}, but {}", lines.join("; ")))
}

impl Probe {
    /// Asks until the outcome is as wanted.
    fn until(self, trial: &Trial<'_>, expect: &Expect) -> Result<(), String> {
        let want = expect.want_in(trial.column(), self.client, self.way);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = match want {
                Want::Otherwise => self.attempt(trial, &expect.want).map(|seen| match seen {
                    Some(_) => None,
                    None => Some(format!("{want}, yet it is")),
                }),
                _ => self.attempt(trial, want),
            };
            let seen = match attempt {
                Ok(None) => return Ok(()),
                Ok(Some(seen)) => seen,
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                return Err(seen);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Nothing, or what was seen.
    fn attempt(self, trial: &Trial<'_>, want: &Want) -> Result<Option<String>> {
        let Self { client, target, way, family } = self;
        let space = trial.lab().space(client.space)?;
        let ask = trial.question(way, target, family, way.who())?;
        let within = |time: Duration| Ask { timeout_ms: time.as_millis() as u64, ..ask.clone() };
        let host = client.kind == ClientKind::Host;
        match want {
            Want::Otherwise => Ok(None),
            Want::Reach(pods, seen) => self.reaches(trial, &ask, pods, *seen),
            Want::Refused if way == UDP => {
                // Such a socket is not told of ICMP errors.
                let verdict = space.ask(&within(SILENCE))?;
                let good = is_silent(&verdict, host) || verdict.is_rejection();
                Ok((!good).then(|| describe(&verdict)))
            }
            Want::Refused => {
                let verdict = space.ask(&within(REFUSAL))?;
                let good = verdict == Verdict::Refused || host && verdict.is_rejection();
                Ok((!good).then(|| describe(&verdict)))
            }
            Want::Silence => {
                let verdict = space.ask(&within(SILENCE))?;
                Ok((!is_silent(&verdict, host)).then(|| describe(&verdict)))
            }
        }
    }

    /// All these and only these answer, and see whom they must.
    fn reaches(
        self,
        trial: &Trial<'_>,
        ask: &Ask,
        pods: &[&str],
        seen: Seen,
    ) -> Result<Option<String>> {
        let space = trial.lab().space(self.client.space)?;
        let wanted: BTreeSet<&str> = pods.iter().copied().collect();
        let mut found = BTreeSet::new();
        let mut asked = 0;
        loop {
            let wrong: BTreeSet<String> = space
                .spread(ask, REQUESTS)?
                .keys()
                .filter_map(|verdict| {
                    let Some((name, source)) = verdict.answer().and_then(who) else {
                        return Some(describe(verdict));
                    };
                    let good = self.is_seen(trial, seen, source, ask.to.ip());
                    found.insert(name.to_owned());
                    (!good || !wanted.contains(name)).then(|| format!("{name} sees {source}"))
                })
                .collect();
            if !wrong.is_empty() {
                return Ok(Some(wrong.into_iter().collect::<Vec<_>>().join(", ")));
            }
            asked += REQUESTS;
            let missing: Vec<_> =
                wanted.iter().filter(|name| !found.contains(**name)).copied().collect();
            if missing.is_empty() {
                return Ok(None);
            }
            if asked >= MOST {
                return Ok(Some(format!("never {}", missing.join(", "))));
            }
        }
    }

    fn is_seen(self, trial: &Trial<'_>, seen: Seen, source: IpAddr, dialled: IpAddr) -> bool {
        let Self { client, target, way: _, family } = self;
        let of_node = |node: &NodeSpec| {
            [node.address().get(family), node.pod(1).get(family)].contains(&source)
        };
        match (seen, client.kind) {
            (Seen::Node, _) => of_node(target.decided_by(client)),
            (Seen::Dialled, _) => source == dialled,
            (Seen::Itself, ClientKind::Host) => of_node(client.node),
            (Seen::Itself, ClientKind::Outside) => source == OUTSIDE_ADDRESS.get(family),
            (Seen::Itself, ClientKind::Pod) => {
                trial.lab().pod(client.space).is_ok_and(|pod| source == pod.address.get(family))
            }
        }
    }
}

impl Trial<'_> {
    /// Does the same for all families and these ways, side by side.
    pub fn everywhere(
        &self,
        ways: &[Way],
        body: impl Fn(Family, Way) -> Result<()> + Sync,
    ) -> Result<()> {
        let body = &body;
        let problems: Vec<String> = thread::scope(|scope| {
            let tasks: Vec<_> = Family::ALL
                .into_iter()
                .flat_map(|family| ways.iter().map(move |way| (family, *way)))
                .map(|(family, way)| {
                    scope.spawn(move || {
                        body(family, way).map_err(|error| format!("{way} IP{family}: {error:#}"))
                    })
                })
                .collect();
            let results = tasks.into_iter().map(|task| {
                task.join().unwrap_or_else(|_panic| Err("panicked, see above".to_owned()))
            });
            results.filter_map(Result::err).collect()
        });
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }
}

/// Whether nobody has said anything; netfilter tells a process of the node of a packet that it drops
/// with EPERM, and a router says that it knows no way.
fn is_silent(verdict: &Verdict, host: bool) -> bool {
    match verdict {
        Verdict::Timeout | Verdict::Errno(libc::ENETUNREACH | libc::EHOSTUNREACH) => true,
        // What a tc program drops, a raw socket learns of in its own words.
        Verdict::Errno(libc::EPERM | libc::ENOBUFS) => host,
        Verdict::Answer(_)
        | Verdict::Status(..)
        | Verdict::Refused
        | Verdict::Errno(_)
        | Verdict::Broken(_) => false,
    }
}

/// Name and client's address in an answer.
pub(super) fn who(answer: &str) -> Option<(&str, IpAddr)> {
    let (name, client) = answer.trim().split_once(' ')?;
    Some((name, client.parse::<SocketAddr>().ok()?.ip()))
}

fn describe(verdict: &Verdict) -> String {
    match verdict.answer().and_then(who) {
        Some((name, source)) => format!("{name} sees {source}"),
        None => verdict.to_string(),
    }
}

//! A question put to both sides, and whether what comes back is right.

use crate::side::{Side, via};
use anyhow::{Context as _, Result};
use lab::{
    proto::{Ask, Proto, Verdict as Answer},
    semantics::{
        Client, Journey, Verdict,
        facts::{Cluster, Protocol},
        journey,
    },
    space::request,
    topology::{Family, NODES, NodeSpec, OUTSIDE, OUTSIDE_ADDRESS},
};
use proptest::{
    prelude::*,
    sample::{Index, select},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

/// How long to wait where silence is expected, and where anything else is: over IPv6, a rejection
/// may take Linux a second.
const SILENCE: u64 = 350;
const PATIENCE: u64 = 2000;
/// Requests for each backend before it counts as never chosen: one in 10^10 is not, by chance.
const TRIES: u32 = 24;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    /// A pod of the node, by the last number of its address.
    Pod(u8),
    /// A process of the node.
    Host,
    /// The client outside.
    Outside,
}

/// A request of one client to one destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    node: NodeSpec,
    who: Who,
    to: SocketAddr,
    proto: Proto,
    /// Whether a UDP socket is connected before it sends; only those are told of rejections.
    connected: bool,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, who, to, proto, connected } = self;
        match who {
            Who::Pod(_) | Who::Host => write!(f, "{} ({who:?} of {})", self.space(), node.name)?,
            Who::Outside => f.write_str(OUTSIDE)?,
        }
        let connected = if *proto == Proto::Udp && *connected { "connected " } else { "" };
        write!(f, " to {to} over {connected}{proto}")
    }
}

/// What becomes of a probe, by draws that do not depend on the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    node: NodeSpec,
    who: Who,
    to: Index,
    udp: bool,
    connected: bool,
}

/// A probe of any kind.
pub(crate) fn draw() -> impl Strategy<Value = Draw> {
    let who = prop_oneof![
        3 => select(&lab::semantics::history::PODS[..]).prop_map(Who::Pod),
        2 => Just(Who::Host),
        2 => Just(Who::Outside),
    ];
    (select(&NODES[..]), who, any::<Index>(), any::<bool>(), any::<bool>())
        .prop_map(|(node, who, to, udp, connected)| Draw { node, who, to, udp, connected })
}

impl Draw {
    /// The probe that this is in a cluster.
    pub(crate) fn probe(&self, cluster: &Cluster) -> Option<Probe> {
        let Self { node, who, to, udp, connected } = self;
        let all: Vec<_> = cluster.destinations().into_iter().collect();
        if all.is_empty() {
            return None;
        }
        let (ip, port) = *to.get(&all);
        Some(Probe {
            node: *node,
            who: *who,
            to: SocketAddr::new(ip, port),
            proto: if *udp { Proto::Udp } else { Proto::Tcp },
            connected: *connected,
        })
    }
}

/// What came back, all requests together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    /// Backends that answered, with the client address that each saw.
    answers: BTreeMap<(SocketAddr, IpAddr), u32>,
    /// Everything else.
    others: BTreeMap<String, u32>,
    /// Whether all of these say that nobody serves, or that nothing came.
    rejected: bool,
    silent: bool,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self
            .answers
            .iter()
            .map(|((backend, source), count)| format!("{backend} answered {source} ({count})"));
        let others = self.others.iter().map(|(what, count)| format!("{what} ({count})"));
        f.write_str(&answers.chain(others).collect::<Vec<_>>().join(", "))
    }
}

impl Probe {
    /// The namespace that it is sent from.
    fn space(&self) -> String {
        match self.who {
            Who::Pod(index) => format!("pod-{}-{index}", self.node.short()),
            Who::Host => self.node.name.to_owned(),
            Who::Outside => OUTSIDE.to_owned(),
        }
    }

    /// What the model says of it on a side.
    pub(crate) fn expect(
        &self,
        cluster: &Cluster,
        side: &Side,
        own: &[(String, Vec<IpAddr>)],
    ) -> Journey {
        let family = if self.to.is_ipv4() { Family::V4 } else { Family::V6 };
        let client = match self.who {
            Who::Pod(index) => Client::Pod(self.node.pod(index).get(family)),
            Who::Host => Client::Host(self.node.address().get(family)),
            Who::Outside => Client::Outside(OUTSIDE_ADDRESS.get(family)),
        };
        // From outside, a node's address leads straight to it.
        let owner = NODES.iter().find(|node| node.address().get(family) == self.to.ip());
        let node = match self.who {
            Who::Pod(_) | Who::Host => self.node.name,
            Who::Outside => owner.map_or_else(|| via(self.to.ip()), |owner| owner.name),
        };
        let protocol = if self.proto == Proto::Tcp { Protocol::Tcp } else { Protocol::Udp };
        journey(cluster, node, client, self.to, protocol, &|node| side.proxy(cluster, node, own))
    }

    /// Asks until everything that may answer has answered, or should have.
    pub(crate) fn ask(&self, side: &Side, expected: &Journey) -> Result<Seen> {
        let space = side.lab.space(&self.space())?;
        let mut seen = Seen { rejected: true, silent: true, ..Seen::default() };
        let sticky = expected.is_sticky;
        let (rounds, times) = match &expected.verdict {
            Verdict::Sent(_) if sticky => (1, 5),
            Verdict::Sent(backends) => (TRIES / 3, 3 * backends.len() as u32),
            Verdict::Rejected | Verdict::Dropped | Verdict::NotAService => (1, 1),
        };
        let ask = self.request(&expected.verdict);
        for _ in 0..rounds {
            for (verdict, count) in space.spread(&ask, times)? {
                seen.add(&verdict, count)?;
            }
            if !seen.others.is_empty() || seen.backends().len() == expected.seen.len() {
                break;
            }
        }
        Ok(seen)
    }

    fn request(&self, expected: &Verdict) -> Ask {
        let query = if self.proto == Proto::Tcp { "/seen" } else { "seen" };
        let patience = match expected {
            Verdict::Dropped | Verdict::NotAService => SILENCE,
            Verdict::Sent(_) | Verdict::Rejected => PATIENCE,
        };
        let connected = self.connected || *expected == Verdict::Rejected;
        Ask { connected, timeout_ms: patience, ..request(self.proto, self.to, query) }
    }
}

impl Seen {
    /// What is wrong with what came back, if anything is.
    pub(crate) fn problem(&self, expected: &Journey) -> Option<String> {
        let Verdict::Sent(_) = &expected.verdict else {
            let right = self.answers.is_empty()
                && match expected.verdict {
                    Verdict::Rejected => self.rejected,
                    Verdict::Dropped => self.silent,
                    Verdict::NotAService | Verdict::Sent(_) => true,
                };
            return (!right).then(|| format!("{:?} expected", expected.verdict));
        };
        for (backend, source) in self.answers.keys() {
            match expected.seen.get(backend) {
                None => return Some(format!("{backend} may not answer")),
                Some(sources) if !sources.contains(source) => {
                    return Some(format!("{backend} sees {source}, not {sources:?}"));
                }
                Some(_) => {}
            }
        }
        if !expected.lost.is_empty() {
            return None;
        }
        if !self.others.is_empty() {
            return Some("every request should be answered".to_owned());
        }
        let backends = self.backends();
        if expected.is_sticky {
            return (backends.len() != 1).then(|| "affinity: one backend expected".to_owned());
        }
        let missing: Vec<_> =
            expected.seen.keys().filter(|backend| !backends.contains(backend)).collect();
        (!missing.is_empty()).then(|| format!("{missing:?} never answered"))
    }

    fn add(&mut self, verdict: &Answer, count: u32) -> Result<()> {
        if let Some(text) = verdict.answer() {
            let (backend, client) = text.split_once(' ').context("not what a pod says")?;
            let client: SocketAddr = client.parse()?;
            *self.answers.entry((backend.parse()?, client.ip())).or_default() += count;
            return Ok(());
        }
        // What netfilter does to a packet of the node itself, send() reports as EPERM, whether it
        // is rejected or dropped.
        let denied = *verdict == Answer::Errno(libc::EPERM);
        self.rejected &= denied || *verdict == Answer::Refused;
        self.silent &= denied || *verdict == Answer::Timeout;
        *self.others.entry(verdict.to_string()).or_default() += count;
        Ok(())
    }

    fn backends(&self) -> BTreeSet<SocketAddr> {
        self.answers.keys().map(|(backend, _)| *backend).collect()
    }
}

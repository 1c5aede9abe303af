//! A packet's way over several nodes, each with its proxy.

use super::{
    Client, Deviation, Packet, Proxy, Source, Verdict,
    facts::{Cluster, Node, Protocol},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

/// What comes of a connection, and where it was decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journey {
    /// The node whose proxy decided.
    pub node: String,
    /// The packet as that proxy saw it.
    pub packet: Packet,
    /// What it decided.
    pub verdict: Verdict,
    /// The addresses under which each backend may see the client.
    pub seen: BTreeMap<SocketAddr, BTreeSet<IpAddr>>,
    /// Whether one client always gets the same backend.
    pub is_sticky: bool,
    /// Backends whose answers do not come back by the node that chose them: the client takes them
    /// for somebody else's.
    pub lost: BTreeSet<SocketAddr>,
}

/// Follows the first packet of a connection from `client` on `node` until a proxy takes it.
///
/// `proxy` gives the proxy of each node.
pub fn journey<'a>(
    cluster: &'a Cluster,
    node: &'a str,
    client: Client,
    to: SocketAddr,
    protocol: Protocol,
    proxy: &dyn Fn(&'a str) -> Proxy<'a>,
) -> Journey {
    let packet = Packet { client, to, protocol };
    let first = proxy(node);
    let verdict = first.judge(&packet);
    let next = cluster.nodes.values().find(|other| other.addresses.contains(&to.ip()));
    match next {
        Some(next) if verdict == Verdict::NotAService && next.name != node => {
            // It arrives there as it left.
            let packet = Packet { client: Client::Outside(client.address()), ..packet };
            let second = proxy(&next.name);
            end(cluster, &second, packet, second.judge(&packet))
        }
        _ => end(cluster, &first, packet, verdict),
    }
}

fn end(cluster: &Cluster, proxy: &Proxy<'_>, packet: Packet, verdict: Verdict) -> Journey {
    let mut journey = Journey {
        node: proxy.node.to_owned(),
        packet,
        verdict,
        seen: BTreeMap::new(),
        is_sticky: proxy.is_sticky(&packet),
        lost: BTreeSet::new(),
    };
    let Verdict::Sent(backends) = &journey.verdict else { return journey };
    let client = packet.client.address();
    let far = matches!(packet.client, Client::Outside(ip) if home(cluster, ip).is_some());
    for (backend, source) in backends {
        let target = home(cluster, backend.ip());
        let here = target.is_some_and(|node| node.name == proxy.node);
        let on_host = proxy.own.contains(&backend.ip());
        let seen: BTreeSet<IpAddr> = match source {
            Source::Kept => [client].into(),
            Source::Node => {
                let node = cluster.nodes.get(proxy.node);
                let node = node.and_then(|node| node.address(backend.ip()));
                let mut seen: BTreeSet<IpAddr> = if on_host {
                    // A process that talks to its own node may be given any address of the node.
                    proxy.own.iter().copied().collect()
                } else if here {
                    // The address of the interface that the packet leaves by.
                    gateway(target, backend.ip()).into_iter().collect()
                } else {
                    node.into_iter().collect()
                };
                let host = matches!(packet.client, Client::Host(_));
                if host && proxy.deviations.contains(&Deviation::HostKeepsItsAddress) {
                    seen.extend(node.filter(|_| here));
                    seen.extend(on_host.then_some(packet.to.ip()));
                }
                if packet.client == Client::Pod(backend.ip())
                    && proxy.deviations.contains(&Deviation::PodMeetsItself)
                {
                    seen.insert(client);
                }
                seen
            }
        };
        journey.seen.insert(*backend, seen);
        if far && *source == Source::Kept && !here {
            journey.lost.insert(*backend);
        }
    }
    journey
}

impl fmt::Display for Journey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, packet, verdict, seen, is_sticky, lost } = self;
        write!(f, "{packet} on {node}: ")?;
        let Verdict::Sent(_) = verdict else { return write!(f, "{verdict:?}") };
        for (backend, sources) in seen {
            let lost = if lost.contains(backend) { ", whose answer is lost" } else { "" };
            write!(f, "{backend} seeing {sources:?}{lost}; ")?;
        }
        f.write_str(if *is_sticky { "always the same" } else { "any of them" })
    }
}

/// The node that has an address or pods with it.
fn home(cluster: &Cluster, ip: IpAddr) -> Option<&Node> {
    cluster.nodes.values().find(|node| {
        node.addresses.contains(&ip) || node.pod_cidrs.iter().any(|range| range.contains(&ip))
    })
}

/// The address that pods of a node see as their node: the first of their range.
pub(super) fn gateway(node: Option<&Node>, like: IpAddr) -> Option<IpAddr> {
    let ranges = node.into_iter().flat_map(|node| &node.pod_cidrs);
    let range = ranges.into_iter().find(|range| range.addr().is_ipv4() == like.is_ipv4())?;
    range.hosts().find(|ip| *ip != range.network())
}

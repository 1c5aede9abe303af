//! Random clusters, judged by the reference model: what the planner writes into the maps must mean
//! what the model says, read in userspace ([`tables`]) and by the kernel programs ([`kernel`]).
//!
//! The number of histories follows `PROPTEST_CASES`; a failure names its seed.

mod kernel;
mod planned;
mod tables;

use crate::node::{NODE, NODE6};
use datapath_user::plan::Routing;
use kernel::Kernel;
use lab::{
    semantics::{
        Client, Detector, Deviation, NodePorts, Packet, Proxy, Source,
        facts::{Cluster, Protocol, Step},
        history::{Kind, beginning, history},
        run,
    },
    topology::{NODES, NodeSpec, OUTSIDE_ADDRESS, POD_RANGES},
};
use planned::Planned;
use proptest::prelude::*;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// The node under test.
const HERE: &NodeSpec = &NODES[1];
/// A node whose pods come to it from outside.
const THERE: &NodeSpec = &NODES[2];

/// Addresses of the node itself.
fn own() -> [IpAddr; 4] {
    let [v4, v6] = HERE.address().both();
    let [gateway4, gateway6] = HERE.pod(1).both();
    [v4, v6, gateway4, gateway6]
}

/// One client of each kind, in the family of `like`.
fn clients(like: IpAddr) -> [Client; 4] {
    let pick = |both: [IpAddr; 2]| if like.is_ipv4() { both[0] } else { both[1] };
    [
        Client::Pod(pick(HERE.pod(2).both())),
        Client::Host(pick(HERE.address().both())),
        Client::Outside(pick(OUTSIDE_ADDRESS.both())),
        Client::Outside(pick(THERE.pod(2).both())),
    ]
}

/// Every packet worth sending.
fn packets(cluster: &Cluster) -> impl Iterator<Item = Packet> {
    let mut destinations = cluster.destinations();
    // The node has more addresses than its object says.
    let ports = cluster.services.values().flat_map(|service| &service.ports);
    for port in ports.filter_map(|port| port.node_port) {
        destinations.extend(own().map(|ip| (ip, port)));
    }
    let destinations = destinations.into_iter();
    let dialled = destinations.flat_map(|to| Protocol::ALL.map(|protocol| (to, protocol)));
    dialled.flat_map(|((ip, port), protocol)| {
        let to = SocketAddr::new(ip, port);
        clients(ip).map(|client| Packet { client, to, protocol })
    })
}

/// How the node is configured.
#[derive(Clone, Copy, Debug)]
struct Shape {
    routing: Routing,
    /// `masqueradeAll`.
    masquerade_all: bool,
    /// Whether node ports are served on the addresses in [`SERVED`] instead of the node's own.
    ranges: bool,
    /// Whether the uplink takes packets of the node itself.
    loopback: bool,
}

/// Ranges in which the node has its addresses towards the pods only.
const SERVED: [&str; 2] = ["10.0.0.0/8", "fd00::/8"];

fn shape() -> impl Strategy<Value = Shape> {
    let routing = prop_oneof![Just(Routing::Native), Just(Routing::None)];
    (routing, any::<[bool; 3]>()).prop_map(|(routing, [masquerade_all, ranges, loopback])| Shape {
        routing,
        masquerade_all,
        ranges,
        loopback,
    })
}

/// The model of the node's proxy.
fn reference<'a>(cluster: &'a Cluster, own: &'a [IpAddr], shape: Shape) -> Proxy<'a> {
    let parse = |range: &str| range.parse().expect("a range");
    Proxy {
        cluster,
        node: HERE.name,
        own,
        detector: Detector::ClusterCidr(POD_RANGES.map(parse).to_vec()),
        masquerade_all: shape.masquerade_all,
        node_ports: if shape.ranges {
            NodePorts::Ranges(SERVED.map(parse).to_vec())
        } else {
            NodePorts::Primary
        },
        deviations: &Deviation::ALL,
    }
}

/// Tells a history to a planner; after each of its batches, `look` compares.
fn tell(
    batches: &[Vec<Step>],
    mut planned: Planned,
    mut look: impl FnMut(&Planned) -> Result<(), String>,
) -> Result<(), String> {
    look(&planned)?;
    batches.iter().try_for_each(|batch| {
        planned.take(batch);
        look(&planned)
    })
}

#[test]
fn tables_mean_what_the_reference_says() {
    let own = own();
    run::check(2000, &(history(Kind::Wild, 40), shape()), |(batches, shape)| {
        tell(&batches, Planned::new(shape), |planned| {
            let reference = reference(&planned.cluster, &own, shape);
            packets(&planned.cluster).try_for_each(|packet| {
                let expected = reference.judge(&packet);
                let actual = tables::read(&planned.tables, &packet);
                if actual == expected {
                    return Ok(());
                }
                Err(format!("{packet}: the tables say {actual:?}, the model {expected:?}"))
            })
        })
    });
}

#[test]
fn programs_do_what_the_reference_says() {
    let Some(kernel) = Kernel::load() else { return };
    let kernel = RefCell::new(kernel);
    let own = own();
    run::check(300, &(history(Kind::Wild, 40), shape()), |(batches, shape)| {
        let mut kernel = kernel.borrow_mut();
        tell(&batches, Planned::new(shape), |planned| {
            kernel.write(planned, shape);
            let reference = reference(&planned.cluster, &own, shape);
            packets(&planned.cluster).try_for_each(|packet| {
                let compared = kernel.compare(&packet, &reference);
                compared.map_err(|problem| format!("{packet}: {problem}"))
            })
        })
    });
}

#[test]
fn the_order_of_events_does_not_matter() {
    let histories = history(Kind::Wild, 40).prop_flat_map(|batches| {
        let mut cluster = beginning();
        for step in batches.iter().flatten() {
            cluster.take(step);
        }
        let left: Vec<_> = cluster.objects().into_iter().map(Step::Put).collect();
        (Just(batches), Just(left).prop_shuffle(), 1..20_usize, shape())
    });
    run::check(500, &histories, |(batches, shuffled, batch, shape)| {
        let mut told = Planned::new(shape);
        for batch in &batches {
            told.take(batch);
        }
        let mut at_once = Planned::empty(shape);
        for batch in shuffled.chunks(batch) {
            at_once.take(batch);
        }
        let (told, at_once) = (tables::contents(&told.tables), tables::contents(&at_once.tables));
        let differ: Vec<_> = told.symmetric_difference(&at_once).collect();
        if differ.is_empty() { Ok(()) } else { Err(format!("the orders differ in {differ:#?}")) }
    });
}

/// The source addresses with which the node may send a packet on. `loopback`: the uplink takes
/// packets of the node itself.
fn sources(
    packet: &Packet,
    backend: SocketAddr,
    source: Source,
    loopback: bool,
) -> BTreeSet<IpAddr> {
    let client = packet.client.address();
    let own = own();
    match (source, packet.client) {
        // tc leaves a host process its address, and gives it the one that it dialled where the
        // answer must come back in by the uplink.
        (Source::Node, Client::Host(_)) if own.contains(&backend.ip()) && !loopback => {
            [packet.to.ip()].into()
        }
        (Source::Kept, _) | (Source::Node, Client::Host(_)) => [client].into(),
        (Source::Node, _) => {
            let v4 = client.is_ipv4();
            let of_family = |ip: &&IpAddr| ip.is_ipv4() == v4;
            let pods = HERE.pod_ranges().map(|range| range.parse::<ipnet::IpNet>());
            let here = pods.iter().flatten().any(|range| range.contains(&backend.ip()));
            let [node, gateway] = [own.iter().find(of_family), own.iter().rev().find(of_family)];
            if here { gateway } else { node }.into_iter().copied().collect()
        }
    }
}

/// Both names of the node under test are one place.
#[test]
fn the_node_under_test_is_the_one_of_the_packet_tests() {
    assert_eq!(HERE.address().both().map(|ip| ip.to_string()), [NODE, NODE6]);
}

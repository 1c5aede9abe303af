//! Random clusters: histories of objects that come, change and go.
//!
//! Few names, addresses and ports, so that objects meet, replace and contradict each other. A
//! [`Kind::Wild`] history has everything that a proxy may read somewhere; a [`Kind::Live`] one only
//! what an API server lets in, pods serve and kube-proxy leaves no choice about.

use super::facts::{
    Cluster, Endpoint, Ingress, Name, Node, Object, Port, Protocol, Service, ServiceCidr, Slice,
    SlicePort, Step, Type,
};
use crate::{
    manifest::{HOST_POD_PORT, POD_PORT},
    topology::{Family, NODES, NodeSpec, SERVICE_RANGES},
};
use proptest::{
    prelude::*,
    sample::{select, subsequence},
};
use std::{collections::BTreeSet, net::IpAddr};

/// What a history may contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Anything.
    Wild,
    /// What a real cluster can have.
    Live,
}

/// Pods of each node in a history, by the last number of their addresses.
pub const PODS: [u8; 2] = [2, 3];
/// Ports that they serve on.
pub const POD_PORTS: [u16; 2] = [POD_PORT, POD_PORT + 1];
/// Addresses that Services may have besides cluster addresses, as external or balanced ones.
pub const EXTERNAL: [&str; 4] = ["203.0.113.1", "203.0.113.2", "2001:db8::1", "2001:db8::2"];
/// The same, only balanced.
pub const BALANCED: [&str; 4] = ["192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:1::2"];

/// Steps in a batch, at most.
pub const BATCH: usize = 8;
const SERVICES: u8 = 5;
const SLICES: u8 = 8;
const ZONES: [&str; 2] = ["z1", "z2"];
/// Name, protocol and number of the ports that Services choose from.
const PORTS: [(&str, Protocol, u16); 5] = [
    ("http", Protocol::Tcp, 80),
    ("udp", Protocol::Udp, 80),
    ("https", Protocol::Tcp, 443),
    ("dns", Protocol::Udp, 53),
    ("sctp", Protocol::Sctp, 80),
];
const RANGES: [&str; 7] = [
    "10.10.0.0/16",
    "10.10.3.2/32",
    "172.18.0.0/24",
    "0.0.0.0/0",
    "fd00:10:10::/48",
    "fc00:f853:ccd:e793::/64",
    "2001:db8::/32",
];

/// The objects that every history begins with: the nodes of the reference cluster and its range of
/// Service addresses.
pub fn beginning() -> Cluster {
    let mut cluster = Cluster::default();
    for spec in &NODES {
        cluster.take(&Step::Put(Object::Node(node(spec, None))));
    }
    cluster.take(&Step::Put(Object::ServiceCidr(service_cidr())));
    cluster
}

/// A history, split where a proxy may look.
pub fn history(kind: Kind, steps: usize) -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(batch(kind), 1..=steps.div_ceil(BATCH))
}

/// Steps that follow each other so fast that nobody looks in between.
pub fn batch(kind: Kind) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(kind), 1..=BATCH)
}

/// Whether kube-proxy is bound to one reading of the cluster: nothing depends on the order in which
/// it happens to visit its objects.
pub fn is_clear(cluster: &Cluster) -> bool {
    let mut claims = BTreeSet::new();
    let frontends = cluster.services.values().flat_map(|service| {
        let balanced = service.ingress.iter().map(|ingress| ingress.ip);
        let ips: BTreeSet<IpAddr> = service.external_ips.iter().copied().chain(balanced).collect();
        let at = move |ip| service.ports.iter().map(move |port| (ip, port.port, port.protocol));
        ips.into_iter().flat_map(at)
    });
    let mut endpoints = BTreeSet::new();
    let running = cluster.slices.values().flat_map(|slice| {
        let at = move |endpoint: &Endpoint| {
            let address = endpoint.address;
            slice.ports.iter().map(move |port| {
                (slice.service.clone(), port.name.clone(), port.protocol, address, port.port)
            })
        };
        slice.endpoints.iter().flat_map(at)
    });
    frontends.into_iter().all(|claim| claims.insert(claim))
        && running.into_iter().all(|endpoint| endpoints.insert(endpoint))
}

fn step(kind: Kind) -> BoxedStrategy<Step> {
    let delete = |kind: &'static str, prefix: &'static str, count: u8| {
        (0..count).prop_map(move |n| Step::Delete(Name { kind, name: format!("{prefix}{n}") }))
    };
    let put_node = (select(&NODES[..]), option(select(&ZONES[..]), 0.7));
    let common = prop_oneof![
        5 => service(kind).prop_map(|object| Step::Put(Object::Service(object))),
        9 => slice(kind).prop_map(|object| Step::Put(Object::Slice(object))),
        1 => delete(Service::KIND, "svc", SERVICES),
        1 => delete(Slice::KIND, "slice", SLICES),
        1 => put_node.prop_map(|(spec, zone)| Step::Put(Object::Node(node(&spec, zone)))),
    ];
    if kind == Kind::Live {
        return common.boxed();
    }
    // The node under test stays: without its object, kube-proxy does not run.
    let gone = select(&NODES[2..])
        .prop_map(|spec| Step::Delete(Name { kind: Node::KIND, name: spec.name.to_owned() }));
    let cidr = any::<bool>().prop_map(|there| {
        let object = Object::ServiceCidr(service_cidr());
        if there { Step::Put(object) } else { Step::Delete(object.name()) }
    });
    prop_oneof![30 => common, 1 => gone, 1 => cidr].boxed()
}

fn option<T: Clone + std::fmt::Debug + 'static>(
    some: impl Strategy<Value = T> + 'static,
    probability: f64,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(probability, some)
}

fn some_of(all: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(all, 0..=most)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn node(spec: &NodeSpec, zone: Option<&str>) -> Node {
    Node {
        name: spec.name.to_owned(),
        addresses: spec.address().both().to_vec(),
        pod_cidrs: spec.pod_ranges().map(|range| range.parse().expect("a range")).to_vec(),
        zone: zone.map(str::to_owned),
    }
}

fn service_cidr() -> ServiceCidr {
    let cidrs = SERVICE_RANGES.map(|range| range.parse().expect("a range")).to_vec();
    ServiceCidr { name: "kubernetes".to_owned(), cidrs }
}

/// The cluster addresses of Service number `number`: none, one or two.
fn cluster_ips(number: u8, shape: u8) -> Vec<IpAddr> {
    let v4 = format!("10.200.1.{}", 10 + number);
    let v6 = format!("fd00:10:200:1::{:x}", 0x10 + number);
    match shape {
        0 => ips(&[&v4]),
        1 => ips(&[&v6]),
        2 => ips(&[&v6, &v4]),
        3 => Vec::new(),
        _ => ips(&[&v4, &v6]),
    }
}

fn service(kind: Kind) -> impl Strategy<Value = Service> {
    let wild = kind == Kind::Wild;
    let types = prop_oneof![
        3 => Just(Type::ClusterIp),
        3 => Just(Type::NodePort),
        4 => Just(Type::LoadBalancer),
        1 => Just(Type::ExternalName),
    ];
    let identity = (0..SERVICES, 0..10_u8, types, 0..4_u8, 0..12_u8);
    let ports = (subsequence(&PORTS[..], 1..=4), 0..6_u8, any::<bool>());
    let external = (
        some_of(&EXTERNAL, 2),
        subsequence(vec![0, 1, 2, 3], 0..=3),
        any::<[bool; 4]>(),
        some_of(&RANGES, 2),
        any::<bool>(),
    );
    let policies = (any::<bool>(), any::<bool>(), 0..4_u8);
    (identity, ports, external, policies).prop_map(
        move |(identity, (ports, first, allocated), external, policies)| {
            let (number, shape, kind, created, labelled) = identity;
            let (external_ips, balanced, proxied, ranges, restricted) = external;
            let (internal_local, external_local, affinity) = policies;
            let headless = shape == 3;
            let kind = if headless && !wild { Type::ClusterIp } else { kind };
            // Numbers of node ports are shared among wild Services.
            let owner = if wild { first } else { number };
            let node_ports = match kind {
                Type::NodePort => true,
                Type::LoadBalancer => allocated,
                Type::ClusterIp | Type::ExternalName => wild && allocated && first == 0,
            };
            let ports = (0..).zip(ports).map(|(index, (name, protocol, port))| Port {
                name: name.to_owned(),
                protocol,
                port,
                node_port: node_ports.then_some(30_000 + 10 * u16::from(owner) + index),
            });
            let on_balancer = wild || kind == Type::LoadBalancer;
            let ingress = balanced.into_iter().map(|index: usize| Ingress {
                ip: BALANCED[index].parse().expect("an address"),
                proxied: proxied[index] && proxied[(index + 1) % 4],
            });
            let dialled = wild || kind != Type::ExternalName;
            Service {
                name: format!("svc{number}"),
                created: i64::from(if wild { created } else { 0 }),
                proxy_name: (labelled == 0).then(|| "other".to_owned()),
                kind,
                cluster_ips: if dialled {
                    // Now and then the address of another one.
                    let stolen = wild && labelled == 1;
                    cluster_ips(if stolen { 0 } else { number }, shape)
                } else {
                    Vec::new()
                },
                ports: ports.collect(),
                external_ips: if dialled { ips(&external_ips) } else { Vec::new() },
                ingress: if on_balancer { ingress.collect() } else { Vec::new() },
                source_ranges: if on_balancer && restricted {
                    ranges.iter().map(|range| range.parse().expect("a range")).collect()
                } else {
                    Vec::new()
                },
                internal_local,
                external_local,
                affinity: (affinity == 0).then_some(3600),
            }
        },
    )
}

/// One endpoint: which node, which of its pods, conditions, hints.
type Draw = (usize, usize, [Option<bool>; 3], bool, bool);

fn slice(kind: Kind) -> impl Strategy<Value = Slice> {
    let wild = kind == Kind::Wild;
    let condition = |likely: bool| prop_oneof![4 => Just(Some(likely)), 1 => Just(Some(!likely)), 1 => Just(None)];
    let conditions = prop_oneof![
        3 => Just([Some(true), Some(true), Some(false)]),
        1 => Just([Some(false), Some(true), Some(true)]),
        2 => (condition(true), condition(true), condition(false)).prop_map(|(r, s, t)| [r, s, t]),
    ];
    let endpoint = (0..NODES.len(), 0..PODS.len(), conditions, any::<bool>(), any::<bool>());
    let names = PORTS.iter().map(|port| port.0).chain(["other"]).collect::<Vec<_>>();
    (
        (0..SLICES, 0..SERVICES, any::<bool>(), 0..16_u8),
        subsequence(names, 1..=4),
        prop::collection::vec(endpoint, 0..=4),
        (0..6_u8, 0..6_u8, select(&POD_PORTS[..])),
    )
        .prop_map(move |((number, owner, v6, odd), names, draws, (place, hinted, target))| {
            // Endpoints in the nodes' own network stand on a port of their own.
            let on_host = place == 0;
            let port = if on_host { HOST_POD_PORT } else { target };
            let mut ports: Vec<SlicePort> = names
                .into_iter()
                .map(|name| {
                    let known = PORTS.iter().find(|port| port.0 == name);
                    let protocol = known.map_or(Protocol::Tcp, |port| port.1);
                    SlicePort { name: Some(name.to_owned()), protocol, port: Some(port) }
                })
                .collect();
            if wild && odd == 0 {
                ports[0].name = None;
            }
            if wild && odd == 1 {
                ports[0].port = None;
            }
            // kube-proxy does not notice that a slice leaves its Service for another one.
            let owner = if wild { owner } else { number % SERVICES };
            Slice {
                name: format!("slice{number}"),
                service: (!wild || odd != 2).then(|| format!("svc{owner}")),
                headless: odd == 3,
                v6,
                ports,
                endpoints: draws
                    .into_iter()
                    .map(|draw| endpoint_of(draw, v6, on_host, hinted, wild && odd == 4))
                    .collect(),
            }
        })
}

fn endpoint_of(draw: Draw, v6: bool, on_host: bool, hinted: u8, homeless: bool) -> Endpoint {
    let (node, pod, [ready, serving, terminating], second_zone, here) = draw;
    let spec = &NODES[node];
    let at = if on_host { spec.address() } else { spec.pod(PODS[pod]) };
    let zone = ZONES[usize::from(second_zone)].to_owned();
    Endpoint {
        address: at.get(if v6 { Family::V6 } else { Family::V4 }),
        node: (!homeless).then(|| spec.name.to_owned()),
        ready,
        serving,
        terminating,
        for_zones: if matches!(hinted, 0 | 1) || (hinted == 3 && here) {
            vec![zone]
        } else {
            Vec::new()
        },
        for_nodes: if matches!(hinted, 1 | 2) {
            vec![NODES[(node + usize::from(!here)) % NODES.len()].name.to_owned()]
        } else {
            Vec::new()
        },
    }
}

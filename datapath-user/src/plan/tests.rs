//! The planner's rules, one table entry at a time, by subject; here are the means to read tables.

mod changes;
mod endpoints;
mod frontends;
mod network;

use super::{Change, Network, Planner, PodAddress, Settings, Tables, Uplink};
use crate::model::{
    Conditions, Endpoint, Event, Model, Node, ObjectName, Protocol, Service, ServicePort,
    ServiceType, Slice, SlicePort,
};
use datapath_common::{
    BackendList, Be16, Frontend, FrontendFlags, FrontendKey, FrontendKind, Protocol as IpProtocol,
    SlotKey,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port")
}

pub(super) fn name(name: &str) -> ObjectName {
    ObjectName::namespaced("ns", name)
}

/// A Service with port 80/TCP.
pub(super) fn service(service: &str, cluster_ips: &[&str]) -> Service {
    let mut service = Service::new(name(service));
    service.cluster_ips = cluster_ips.iter().map(|text| ip(text)).collect();
    service.ports = [ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: port(80),
        node_port: None,
    }]
    .into();
    service
}

/// A slice of port 8080 for port "http".
pub(super) fn slice(slice: &str, service: &str, endpoints: &[Endpoint]) -> Slice {
    let ports =
        [SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: port(8080) }].into();
    let endpoints = endpoints.into();
    Slice { name: name(slice), service: name(service), ports, endpoints, trigger_time: None }
}

/// An endpoint on node `n` + its number.
pub(super) fn endpoint(address: &str, node: u8) -> Endpoint {
    let mut endpoint = Endpoint::new(ip(address));
    endpoint.node = Some(format!("n{node}").into());
    endpoint
}

fn with(endpoint: Endpoint, ready: bool, serving: bool, terminating: bool) -> Endpoint {
    Endpoint { conditions: Conditions { ready, serving, terminating }, ..endpoint }
}

/// A frontend with names in place of numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    service: Option<String>,
    pub(super) inside: Vec<String>,
    pub(super) outside: Vec<String>,
    affinity: u32,
    pub(super) flags: FrontendFlags,
    pub(super) kind: FrontendKind,
    members: usize,
}

/// Tables with names in place of numbers.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct View {
    pub(super) frontends: BTreeMap<String, Seen>,
    pub(super) backends: BTreeSet<String>,
    pub(super) services: BTreeSet<String>,
    ranges: BTreeSet<String>,
    slots: usize,
    members: usize,
}

fn label(tables: &Tables, service: u32) -> String {
    let label = tables.services[&service].label;
    String::from_utf8_lossy(&label).trim_end_matches('\0').to_owned()
}

fn list(tables: &Tables, list: BackendList, service: u32) -> Vec<String> {
    (0..list.count)
        .map(|index| {
            let id = tables.slots[&SlotKey { list: list.id, index }];
            let backend = tables.backends[&id];
            assert_eq!(backend.service, service, "a backend of another service");
            format!("{}:{:?}", backend.addr, backend.port)
        })
        .collect()
}

fn seen(tables: &Tables, frontend: &Frontend) -> Seen {
    let Frontend { service, inside, outside, affinity, flags, kind, pad: _ } = *frontend;
    let members = tables.members.iter().filter(|m| m.list == inside.id || m.list == outside.id);
    Seen {
        service: (service != 0).then(|| label(tables, service)),
        inside: list(tables, inside, service),
        outside: list(tables, outside, service),
        affinity,
        flags,
        kind,
        members: members.count(),
    }
}

/// Reads tables; panics where something points to nothing.
pub(super) fn view(tables: &Tables) -> View {
    let frontends = tables.frontends.iter().map(|(key, frontend)| {
        let FrontendKey { addr, port, protocol, origin } = key;
        let origin = if *origin == FrontendKey::PASSED_ON { " passed on" } else { "" };
        (format!("{addr} {port:?}/{protocol:?}{origin}"), seen(tables, frontend))
    });
    View {
        frontends: frontends.collect(),
        backends: tables
            .backends
            .values()
            .map(|b| format!("{} {}:{:?}", label(tables, b.service), b.addr, b.port))
            .collect(),
        services: tables.services.keys().map(|id| label(tables, *id)).collect(),
        ranges: tables
            .source_ranges
            .iter()
            .map(|r| format!("{} {}/{}", label(tables, r.service), r.addr, r.prefix_len - 32))
            .collect(),
        slots: tables.slots.len(),
        members: tables.members.len(),
    }
}

/// A node `n1` in zone `z1`, with pods in 10.10.1.0/24.
pub(super) fn own_node() -> Node {
    let mut node = Node::new("n1");
    node.v4 = Some("172.18.0.2".parse().expect("an address"));
    node.pod_cidrs = ["10.10.1.0/24".parse().expect("a range")].into();
    node.zone = Some("z1".into());
    node
}

/// What `n1` plans for these.
fn plan(events: impl IntoIterator<Item = Event>) -> Tables {
    plan_with(Settings::new("n1"), events)
}

pub(super) fn plan_with(settings: Settings, events: impl IntoIterator<Item = Event>) -> Tables {
    let mut model = Model::default();
    model.apply(Event::Node(own_node()));
    for event in events {
        model.apply(event);
    }
    let mut planner = Planner::new(settings, &Tables::default());
    let dirty = model.take_dirty();
    let change = planner.update(&model, &dirty);
    let tables = planner.tables();
    assert_eq!(Change::between(&Tables::default(), &tables), change);
    view(&tables);
    tables
}

fn frontend(tables: &Tables, address: &str, number: u16) -> Option<Seen> {
    let key = FrontendKey::new(ip(address).into(), Be16::new(number), IpProtocol::TCP);
    tables.frontends.get(&key).map(|frontend| seen(tables, frontend))
}

fn inside(tables: &Tables) -> Vec<String> {
    frontend(tables, "10.200.1.1", 80).expect("the cluster address").inside
}

/// A Service that has every kind of frontend.
fn load_balancer() -> Service {
    let mut service = service("a", &["10.200.1.1"]);
    service.kind = ServiceType::LoadBalancer;
    service.ports[0].node_port = Some(port(30080));
    service.external_ips = [ip("203.0.113.250"), ip("2001:db8::1")].into();
    service.load_balancer_vips = [ip("192.0.2.10")].into();
    service
}

pub(super) fn network() -> Network {
    let pod = PodAddress { device: 7, mac: [2; 6], gateway: Some(ip("10.10.1.1")) };
    Network {
        uplinks: vec![Uplink { device: 2, mtu: 1500, mac: [1; 6] }],
        uplink_addresses: ["172.18.0.2/16", "fc00:f853::2/64"]
            .map(|subnet| subnet.parse().expect("an address with a prefix"))
            .into(),
        pods: BTreeMap::from([(ip("10.10.1.2"), pod)]),
        pod_devices: Vec::new(),
        host_addresses: ["172.18.0.2", "fc00:f853::2", "10.10.1.1"].map(ip).into(),
        routes: [("10.10.2.0/24".parse().expect("a range"), ip("172.18.0.3"), 2)].into(),
    }
}

//! The planner's rules, one table entry at a time, and the means to read tables.

use super::{
    Change, Network, NodePortAddresses, Planner, PodAddress, Routing, Settings, Tables, Uplink,
};
use crate::model::{
    Conditions, Endpoint, Event, Model, Node, ObjectName, Protocol, Service, ServiceCidr,
    ServicePort, ServiceType, Slice, SlicePort, TrafficPolicy,
};
use datapath_common::{
    Addr, Address, AddressKind, BackendList, Be16, Frontend, FrontendFlags, FrontendKey,
    FrontendKind, LpmKey, Protocol as IpProtocol, Route, RouteKind, SlotKey, SourceRangeKey,
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
        let FrontendKey { addr, port, protocol, pad: _ } = key;
        (format!("{addr} {port:?}/{protocol:?}"), seen(tables, frontend))
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

#[test]
fn endpoints_are_joined_by_port_name() {
    let mut other = slice("s2", "a", &[endpoint("10.10.1.9", 1)]);
    other.ports[0].name = "metrics".into();
    let tables = plan([
        Event::Service(service("a", &["10.200.1.1"])),
        Event::Slice(slice("s1", "a", &[endpoint("10.10.1.2", 1), endpoint("10.10.2.2", 2)])),
        Event::Slice(other),
    ]);
    assert_eq!(inside(&tables), ["10.10.1.2:8080", "10.10.2.2:8080"]);
    assert_eq!(tables.backends.len(), 2);
    let any = tables.frontends[&FrontendKey::any_port(ip("10.200.1.1").into())];
    assert_eq!(
        (any.service, any.inside, any.flags),
        (0, BackendList::default(), FrontendFlags::default())
    );
    assert_eq!(view(&tables).services, BTreeSet::from(["ns/a:http/TCP".to_owned()]));
}

#[test]
fn services_that_do_not_count_have_nothing() {
    let headless = service("a", &[]);
    let mut alias = service("b", &["10.200.1.2"]);
    alias.kind = ServiceType::ExternalName;
    let mut other = service("c", &["10.200.1.3"]);
    other.proxy_name = Some("other".into());
    let events = [headless, alias, other].map(Event::Service);
    assert!(plan(events.clone()).frontends.is_empty());
    let mut settings = Settings::new("n1");
    settings.proxy_name = Some("other".into());
    assert!(frontend(&plan_with(settings, events), "10.200.1.3", 80).is_some());
}

#[test]
fn ready_else_draining_else_nothing() {
    let ready = || endpoint("10.10.1.2", 1);
    let draining = || with(endpoint("10.10.1.3", 1), false, true, true);
    let broken = || with(endpoint("10.10.1.4", 1), false, false, true);
    for (endpoints, expected) in [
        (vec![ready(), draining(), broken()], vec!["10.10.1.2:8080"]),
        (vec![draining(), broken()], vec!["10.10.1.3:8080"]),
        (vec![broken()], vec![]),
    ] {
        let kept = endpoints.iter().filter(|e| e.conditions.serving).count();
        let tables = plan([
            Event::Service(service("a", &["10.200.1.1"])),
            Event::Slice(slice("s", "a", &endpoints)),
        ]);
        assert_eq!(inside(&tables), expected);
        assert_eq!(tables.backends.len(), kept, "backends live as long as they serve");
    }
}

#[test]
fn a_running_pod_is_preferred_to_a_terminating_one_with_its_address() {
    for (first, second) in [("s1", "s2"), ("s2", "s1")] {
        let tables = plan([
            Event::Service(service("a", &["10.200.1.1"])),
            Event::Slice(slice(first, "a", &[with(endpoint("10.10.1.2", 1), false, false, true)])),
            Event::Slice(slice(second, "a", &[endpoint("10.10.1.2", 1)])),
        ]);
        assert_eq!(inside(&tables), ["10.10.1.2:8080"]);
    }
}

#[test]
fn hints_count_if_every_ready_endpoint_has_them_and_one_is_for_us() {
    let zone = |address, zone: &str| {
        let mut endpoint = endpoint(address, 2);
        endpoint.for_zones = [zone.into()].into();
        endpoint
    };
    let node = |address, zone_name: &str, node: &str| {
        let mut endpoint = zone(address, zone_name);
        endpoint.for_nodes = [node.into()].into();
        endpoint
    };
    let (near, far) = ("10.10.1.2:8080", "10.10.2.2:8080");
    for (endpoints, expected) in [
        (vec![zone("10.10.1.2", "z1"), zone("10.10.2.2", "z2")], vec![near]),
        (vec![zone("10.10.1.2", "z2"), zone("10.10.2.2", "z2")], vec![near, far]),
        (vec![zone("10.10.1.2", "z1"), endpoint("10.10.2.2", 2)], vec![near, far]),
        (vec![node("10.10.1.2", "z2", "n1"), node("10.10.2.2", "z1", "n2")], vec![near]),
        (vec![node("10.10.1.2", "z1", "n3"), node("10.10.2.2", "z2", "n2")], vec![near]),
        (
            vec![zone("10.10.1.2", "z1"), with(endpoint("10.10.2.2", 2), false, false, false)],
            vec![near],
        ),
    ] {
        let tables = plan([
            Event::Service(service("a", &["10.200.1.1"])),
            Event::Slice(slice("s", "a", &endpoints)),
        ]);
        assert_eq!(inside(&tables), expected);
    }
}

#[test]
fn internal_policy_local_drops_where_all_endpoints_are_elsewhere() {
    let mut local = service("a", &["10.200.1.1"]);
    local.internal_policy = TrafficPolicy::Local;
    let drop = FrontendFlags::DROP_INSIDE.with(FrontendFlags::DROP_OUTSIDE);
    for (endpoints, expected, drops) in [
        (vec![endpoint("10.10.1.2", 1), endpoint("10.10.2.2", 2)], vec!["10.10.1.2:8080"], false),
        (vec![endpoint("10.10.2.2", 2)], vec![], true),
        (vec![with(endpoint("10.10.2.2", 2), false, true, true)], vec![], true),
        (vec![with(endpoint("10.10.2.2", 2), false, false, false)], vec![], false),
    ] {
        let tables =
            plan([Event::Service(local.clone()), Event::Slice(slice("s", "a", &endpoints))]);
        let seen = frontend(&tables, "10.200.1.1", 80).expect("the cluster address");
        assert_eq!(
            (&seen.inside, &seen.outside),
            (&expected.iter().map(|s| (*s).to_owned()).collect(), &seen.inside)
        );
        assert_eq!(seen.flags.has(drop), drops);
    }
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

#[test]
fn external_frontends_follow_the_external_policy() {
    let everybody = FrontendFlags::MASQUERADE_POD
        .with(FrontendFlags::MASQUERADE_HOST)
        .with(FrontendFlags::MASQUERADE_OUTSIDE);
    let endpoints = [endpoint("10.10.1.2", 1), endpoint("10.10.2.2", 2)];
    let all = ["10.10.1.2:8080", "10.10.2.2:8080"];
    let frontends = [("0.0.0.0", 30080), ("203.0.113.250", 80), ("192.0.2.10", 80)];
    let tables = plan([Event::Service(load_balancer()), Event::Slice(slice("s", "a", &endpoints))]);
    for (address, number) in frontends {
        let seen = frontend(&tables, address, number).expect("a frontend");
        assert_eq!(
            (&seen.inside[..], &seen.outside[..]),
            (&all.map(String::from)[..], &all.map(String::from)[..])
        );
        assert_eq!(seen.flags, everybody);
    }
    assert!(frontend(&tables, "2001:db8::1", 80).is_none(), "no cluster address of that family");

    let mut local = load_balancer();
    local.external_policy = TrafficPolicy::Local;
    for (endpoints, outside, flags) in [
        (&endpoints[..], vec!["10.10.1.2:8080".to_owned()], FrontendFlags::MASQUERADE_HOST),
        (&endpoints[1..], vec![], FrontendFlags::MASQUERADE_HOST.with(FrontendFlags::DROP_OUTSIDE)),
        (&[], vec![], FrontendFlags::MASQUERADE_HOST),
    ] {
        let tables =
            plan([Event::Service(local.clone()), Event::Slice(slice("s", "a", endpoints))]);
        for (address, number) in frontends {
            let seen = frontend(&tables, address, number).expect("a frontend");
            assert_eq!((seen.outside, seen.flags), (outside.clone(), flags));
            assert_eq!(seen.inside.len(), endpoints.len());
        }
    }
}

#[test]
fn masquerade_of_cluster_addresses_needs_to_know_pods() {
    let flags = |settings: Settings, address: &str| {
        let tables = plan_with(
            settings,
            [Event::Service(service("a", &["10.200.1.1", "fd00:10:200:1::1"]))],
        );
        frontend(&tables, address, 80).expect("a frontend").flags
    };
    let others = FrontendFlags::MASQUERADE_OUTSIDE.with(FrontendFlags::MASQUERADE_HOST);
    let mut all = Settings::new("n1");
    all.masquerade_all = true;
    assert_eq!(flags(Settings::new("n1"), "10.200.1.1"), others);
    assert_eq!(flags(Settings::new("n1"), "fd00:10:200:1::1"), FrontendFlags::default());
    assert_eq!(flags(all, "10.200.1.1"), others.with(FrontendFlags::MASQUERADE_POD));
}

#[test]
fn source_ranges_bind_load_balancer_addresses_of_their_family() {
    let ranges = |ranges: &[&str]| {
        let mut service = load_balancer();
        service.source_ranges =
            ranges.iter().map(|range| range.parse().expect("a range")).collect();
        plan([Event::Service(service)])
    };
    let limited = |tables: &Tables, address, number| {
        frontend(tables, address, number)
            .expect("a frontend")
            .flags
            .has(FrontendFlags::SOURCE_RANGES)
    };
    let tables = ranges(&["10.0.0.0/8", "2001:db8::/32"]);
    assert!(limited(&tables, "192.0.2.10", 80));
    assert!(!limited(&tables, "203.0.113.250", 80) && !limited(&tables, "0.0.0.0", 30080));
    let id = *tables.services.keys().next().expect("a service");
    let key = |addr: &str, len: u32| SourceRangeKey {
        prefix_len: 32 + len,
        service: id,
        addr: ip(addr).into(),
    };
    assert_eq!(tables.source_ranges, [key("10.0.0.0", 104)].into());
    let tables = ranges(&["172.18.0.0/16"]);
    let expected = [key("172.18.0.0", 112), key("192.0.2.10", 128)].into();
    assert_eq!(tables.source_ranges, expected, "the node may have the address itself");
    for unlimited in [&["2001:db8::/32"][..], &["10.0.0.0/8", "0.0.0.0/0"]] {
        let tables = ranges(unlimited);
        assert!(!limited(&tables, "192.0.2.10", 80) && tables.source_ranges.is_empty());
    }
}

#[test]
fn affinity_brings_members() {
    let mut sticky = load_balancer();
    sticky.affinity = Some(10800);
    let tables =
        plan([Event::Service(sticky), Event::Slice(slice("s", "a", &[endpoint("10.10.1.2", 1)]))]);
    assert_eq!(frontend(&tables, "192.0.2.10", 80).expect("a frontend").affinity, 10800);
    assert_eq!(tables.members.len(), 1);
}

#[test]
fn the_older_of_two_services_has_the_address() {
    let claim = |service_name: &str, address: &str, created| {
        let mut service = service(service_name, &[address]);
        service.external_ips = [ip("203.0.113.250")].into();
        service.created = created;
        Event::Service(service)
    };
    let (young, old) = (claim("a", "10.200.1.1", 20), claim("b", "10.200.1.2", 10));
    for events in [[young.clone(), old.clone()], [old.clone(), young.clone()]] {
        let mut model = Model::default();
        let mut planner = Planner::new(Settings::new("n1"), &Tables::default());
        for event in events {
            model.apply(event);
            planner.update(&model, &model.clone_dirty());
        }
        let holder = |planner: &Planner| {
            frontend(&planner.tables(), "203.0.113.250", 80).and_then(|seen| seen.service)
        };
        assert_eq!(holder(&planner).as_deref(), Some("ns/b:http/TCP"));
        model.take_dirty();
        model.apply(Event::Deleted(crate::model::Kind::Service, name("b")));
        let change = planner.update(&model, &model.clone_dirty());
        assert_eq!(holder(&planner).as_deref(), Some("ns/a:http/TCP"));
        assert!(change.put.frontends.len() == 1, "handed over in one write");
    }
}

#[test]
fn health_checks_count_ready_endpoints_of_this_node() {
    let mut service = load_balancer();
    service.external_policy = TrafficPolicy::Local;
    service.health_check_node_port = Some(port(32000));
    let mut model = Model::default();
    model.apply(Event::Service(service.clone()));
    let endpoints = [
        endpoint("10.10.1.2", 1),
        endpoint("10.10.2.2", 2),
        with(endpoint("10.10.1.3", 1), false, true, true),
    ];
    model.apply(Event::Slice(slice("s", "a", &endpoints)));
    let mut planner = Planner::new(Settings::new("n1"), &Tables::default());
    planner.update(&model, &model.clone_dirty());
    let checks: Vec<_> = planner.health_checks().collect();
    assert_eq!((checks.len(), checks[0].local_endpoints, checks[0].port), (1, 1, port(32000)));
    service.external_policy = TrafficPolicy::Cluster;
    model.apply(Event::Service(service));
    planner.update(&model, &model.clone_dirty());
    assert_eq!(planner.health_checks().count(), 0);
}

#[test]
fn numbers_survive_a_restart() {
    let events = || {
        [
            Event::Service(load_balancer()),
            Event::Slice(slice("s", "a", &[endpoint("10.10.1.2", 1), endpoint("10.10.2.2", 2)])),
            Event::Service(service("b", &["10.200.1.2"])),
            Event::Slice(slice("t", "b", &[endpoint("10.10.1.2", 1)])),
        ]
    };
    let mut first = Model::default();
    for event in events() {
        first.apply(event);
    }
    let mut planner = Planner::new(Settings::new("n1"), &Tables::default());
    planner.update(&first, &first.clone_dirty());
    let before = planner.tables();
    let mut second = Model::default();
    for event in events().into_iter().rev() {
        second.apply(event);
    }
    let mut again = Planner::new(Settings::new("n1"), &before);
    again.update(&second, &second.clone_dirty());
    again.settle();
    assert_eq!(again.tables(), before);
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

#[test]
fn node_ports_are_served_where_the_operator_wants() {
    for (text, expected) in [
        ("primary", vec!["172.18.0.2", "fc00:f853::2"]),
        ("all", vec!["10.10.1.1", "172.18.0.2", "fc00:f853::2"]),
        ("10.0.0.0/8", vec!["10.10.1.1", "fc00:f853::2"]),
    ] {
        let mut settings = Settings::new("n1");
        settings.node_port_addresses = text.parse::<NodePortAddresses>().expect("a setting");
        let mut model = Model::default();
        model.apply(Event::Node(own_node()));
        let mut planner = Planner::new(settings, &Tables::default());
        planner.update_network(&model, network());
        let addresses = planner.tables().addresses;
        assert_eq!(addresses[&Addr::from(ip("10.10.1.2"))].kind, AddressKind::POD);
        let served: BTreeSet<String> = addresses
            .iter()
            .filter(|(_, address)| address.flags == Address::NODE_PORT)
            .map(|(addr, _)| addr.to_string())
            .collect();
        assert_eq!(served, expected.into_iter().map(String::from).collect());
    }
}

#[test]
fn pods_of_other_nodes_are_reached_where_the_kernel_agrees() {
    let other = |number: u8| {
        let mut node = Node::new(&format!("n{number}"));
        node.v4 = Some([172, 18, 0, number + 1].into());
        node.pod_cidrs = [format!("10.10.{number}.0/24").parse().expect("a range")].into();
        Event::Node(node)
    };
    let ranges = ServiceCidr {
        name: ObjectName::cluster("kubernetes"),
        cidrs: ["10.200.1.0/24".parse().expect("a range")].into(),
    };
    for (routing, remote, local) in [
        (Routing::None, vec![], 0),
        (Routing::Auto, vec!["10.10.2.0"], 1),
        (Routing::Native, vec!["10.10.2.0", "10.10.3.0"], 1),
    ] {
        let mut settings = Settings::new("n1");
        settings.routing = routing;
        let mut model = Model::default();
        for event in
            [Event::Node(own_node()), other(2), other(3), Event::ServiceCidr(ranges.clone())]
        {
            model.apply(event);
        }
        let mut planner = Planner::new(settings, &Tables::default());
        planner.update_network(&model, network());
        let Tables { routes, local_clients, .. } = planner.tables();
        let kind = |kind| routes.iter().filter(move |(_, route)| route.kind == kind);
        let found: BTreeSet<_> =
            kind(RouteKind::REMOTE).map(|(key, _)| key.addr.to_string()).collect();
        assert_eq!(found, remote.iter().map(|text| (*text).to_owned()).collect());
        for (key, route) in kind(RouteKind::REMOTE) {
            let last = key.addr.v4_word().to_ne_bytes()[2] + 1;
            let next_hop = IpAddr::from([172, 18, 0, last]).into();
            let expected =
                Route { next_hop, device: 2, mtu: 1500, kind: RouteKind::REMOTE, pad: 0 };
            assert_eq!(*route, expected);
        }
        assert_eq!(kind(RouteKind::LOCAL).count(), local);
        assert!(routes.contains_key(&LpmKey::new(ip("10.200.1.0").into(), 24)));
        assert_eq!(local_clients.len(), 3);
        assert_eq!(planner.carries_pods(), local == 1);
        let mut network = network();
        network.routes.insert(("10.10.1.64/26".parse().expect("a range"), ip("172.18.0.4"), 2));
        planner.update_network(&model, network);
        let routes = planner.tables().routes;
        assert!(
            routes.values().all(|route| route.kind != RouteKind::LOCAL),
            "a part of the range is on another node"
        );
    }
}

/// Routes to the other nodes of Calico's reference cluster, as `n1` in 192.168.10.0/24 has them: `n2` is
/// in its subnet, `n0` behind a router.
#[test]
fn tunnels_lead_where_the_mode_says() {
    let near = "172.16.2.0/24 REMOTE 192.168.10.2 9001";
    let near_tunnel = "172.16.2.0/24 TUNNEL 192.168.10.2 8981";
    let far_tunnel = "172.16.9.0/24 TUNNEL 192.168.20.9 8981";
    let far_tunnel6 = "fd00:16:9::/64 TUNNEL 192.168.20.9 8981";
    let borrowed = "172.16.1.77/32 TUNNEL 192.168.20.9 8981";
    let own = "172.16.1.0/24 LOCAL";
    let peer = |node| format!("{node}/32 PEER {node} 0");
    let (near_node, far_node) = ("192.168.10.2", "192.168.20.9");
    for (routing, sole, expected) in [
        (Routing::None, true, vec![]),
        (Routing::Auto, false, vec![]),
        (
            Routing::Ipip,
            false,
            vec![
                near_tunnel.into(),
                far_tunnel.into(),
                far_tunnel6.into(),
                borrowed.into(),
                own.into(),
                peer(near_node),
                peer(far_node),
            ],
        ),
        (
            Routing::CrossSubnet,
            false,
            vec![
                near.into(),
                far_tunnel.into(),
                far_tunnel6.into(),
                borrowed.into(),
                own.into(),
                peer(near_node),
                peer(far_node),
            ],
        ),
        (
            Routing::Auto,
            true,
            vec![
                near.into(),
                far_tunnel.into(),
                far_tunnel6.into(),
                borrowed.into(),
                own.into(),
                peer(near_node),
                peer(far_node),
            ],
        ),
    ] {
        let mut settings = Settings::new("n1");
        settings.routing = routing;
        settings.sole_network = sole;
        let mut model = Model::default();
        for (name, address, ranges) in [
            ("n1", [192, 168, 10, 1], vec!["172.16.1.0/24"]),
            ("n2", [192, 168, 10, 2], vec!["172.16.2.0/24"]),
            ("n0", [192, 168, 20, 9], vec!["172.16.9.0/24", "fd00:16:9::/64", "172.16.1.77/32"]),
        ] {
            let mut node = Node::new(name);
            node.v4 = Some(address.into());
            node.pod_cidrs = ranges.iter().map(|text| text.parse().expect("a range")).collect();
            model.apply(Event::Node(node));
        }
        let mut planner = Planner::new(settings, &Tables::default());
        planner.update_network(
            &model,
            Network {
                uplinks: vec![Uplink { device: 2, mtu: 9001, mac: [1; 6] }],
                uplink_addresses: vec!["192.168.10.1/24".parse().expect("an address")],
                ..Network::default()
            },
        );
        let found: BTreeSet<String> = planner.tables().routes.iter().map(describe).collect();
        assert_eq!(found, expected.into_iter().collect(), "{routing:?}");
        assert_eq!(planner.routing().has_tunnels(), found.contains(far_tunnel), "{routing:?}");
        let pods = planner.pod_network().expect("a network");
        assert_eq!(pods.mtu, if found.contains(far_tunnel) { 8981 } else { 9001 }, "{routing:?}");
    }
}

/// Where the node's network is ours, `auto` follows the nodes; pods wait for their Node's ranges.
#[test]
fn the_nodes_decide_what_becomes_of_auto() {
    let mut settings = Settings::new("n1");
    settings.sole_network = true;
    let mut planner = Planner::new(settings, &Tables::default());
    let network = Network {
        uplinks: vec![Uplink { device: 2, mtu: 1500, mac: [1; 6] }],
        uplink_addresses: vec!["172.18.0.3/16".parse().expect("an address")],
        ..Network::default()
    };
    let mut model = Model::default();
    planner.update_network(&model, network);
    assert_eq!(planner.pod_network(), None, "this Node is not known yet");
    for (name, address, range, routing, mtu) in [
        ("n1", [172, 18, 0, 3], "", Routing::Native, None),
        ("n1", [172, 18, 0, 3], "10.10.3.0/24", Routing::Native, Some(1500)),
        ("n2", [172, 18, 0, 5], "10.10.1.0/24", Routing::Native, Some(1500)),
        ("n3", [172, 19, 0, 4], "10.10.2.0/24", Routing::CrossSubnet, Some(1480)),
    ] {
        let mut node = Node::new(name);
        node.v4 = Some(address.into());
        node.pod_cidrs = range.parse().into_iter().collect();
        model.apply(Event::Node(node));
        let dirty = model.take_dirty();
        planner.update(&model, &dirty);
        assert_eq!(planner.routing(), routing, "{name} {range}");
        assert_eq!(planner.pod_network().map(|pods| pods.mtu), mtu, "{name} {range}");
    }
}

/// The kernel sends what is to be wrapped to the next hop of the node behind it, in pieces that fit.
#[test]
fn the_kernel_knows_the_same_ways() {
    let mut model = Model::default();
    for (name, address, range) in [
        ("n1", [192, 168, 10, 1], "172.16.1.0/24"),
        ("n2", [192, 168, 10, 2], "172.16.2.0/24"),
        ("n0", [192, 168, 20, 9], "172.16.9.0/24"),
    ] {
        let mut node = Node::new(name);
        node.v4 = Some(address.into());
        node.pod_cidrs = [range.parse().expect("a range")].into();
        model.apply(Event::Node(node));
    }
    let route =
        |range: &str, gateway: &str, device| (range.parse().expect("a range"), ip(gateway), device);
    for (routing, expected) in [
        (Routing::None, vec![]),
        (Routing::Auto, vec![]),
        (
            Routing::Ipip,
            vec![
                ("172.16.2.0/24", "192.168.10.2", Some(8981)),
                ("172.16.9.0/24", "192.168.10.254", Some(8981)),
            ],
        ),
        (
            Routing::CrossSubnet,
            vec![
                ("172.16.2.0/24", "192.168.10.2", None),
                ("172.16.9.0/24", "192.168.10.254", Some(8981)),
            ],
        ),
    ] {
        let mut settings = Settings::new("n1");
        settings.routing = routing;
        let mut planner = Planner::new(settings, &Tables::default());
        planner.update_network(
            &model,
            Network {
                uplinks: vec![Uplink { device: 2, mtu: 9001, mac: [1; 6] }],
                uplink_addresses: vec!["192.168.10.1/24".parse().expect("an address")],
                routes: [
                    route("0.0.0.0/0", "192.168.10.253", 2),
                    route("192.168.20.0/24", "192.168.10.254", 2),
                    route("192.168.20.0/28", "10.0.0.1", 3),
                ]
                .into(),
                ..Network::default()
            },
        );
        let found: Vec<_> = planner
            .kernel_routes()
            .iter()
            .map(|(range, hop)| (range.to_string(), hop.gateway.to_string(), hop.mtu))
            .collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(range, gateway, mtu)| (range.to_owned(), gateway.to_owned(), mtu))
            .collect();
        assert_eq!(found, expected, "{routing:?}");
    }
}

fn describe((key, route): (&LpmKey, &Route)) -> String {
    let length = key.prefix_len - if key.addr.is_v4() { 96 } else { 0 };
    let kind = match route.kind {
        RouteKind::REMOTE => "REMOTE",
        RouteKind::TUNNEL => "TUNNEL",
        RouteKind::PEER => "PEER",
        RouteKind::LOCAL => return format!("{}/{length} LOCAL", key.addr),
        other => panic!("{other:?}"),
    };
    format!("{}/{length} {kind} {} {}", key.addr, route.next_hop, route.mtu)
}

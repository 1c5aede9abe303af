//! The reference, section by section: what its tables say is what the model says.

use super::{
    Client, Detector, Deviation, NodePorts, Packet, Proxy,
    Source::{self, Kept},
    Verdict::{self, Dropped, NotAService, Rejected},
    facts::{
        Cluster, Endpoint, Ingress, Object, Port, Protocol, Service, Slice, SlicePort, Step, Type,
    },
    history::beginning,
    journey,
};
use crate::topology::NODES;
use std::net::IpAddr;

const HERE: &str = "myk8s-worker";
const POD: &str = "10.10.3.2";
const REMOTE_POD: &str = "10.10.1.2";
const NODE: &str = "172.18.0.3";
const OUTSIDE: &str = "172.18.0.100";
const NODE_SOURCE: Source = Source::Node;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod() -> Client {
    Client::Pod(ip(POD))
}

fn host() -> Client {
    Client::Host(ip(NODE))
}

fn outside() -> Client {
    Client::Outside(ip(OUTSIDE))
}

/// An endpoint at the third address of a node's pods, ready.
fn endpoint(node: usize) -> Endpoint {
    Endpoint {
        address: NODES[node].pod(3).v4.into(),
        node: Some(NODES[node].name.to_owned()),
        ready: None,
        serving: None,
        terminating: None,
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
    }
}

/// The node under test and the one after it.
const LOCAL: usize = 1;
const REMOTE: usize = 2;

fn draining(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: Some(false), serving: Some(true), terminating: Some(true), ..endpoint }
}

fn down(endpoint: Endpoint) -> Endpoint {
    Endpoint { ready: Some(false), serving: Some(false), ..endpoint }
}

fn slice(endpoints: Vec<Endpoint>) -> Slice {
    let ports = ["http", "udp"].map(|name| SlicePort {
        name: Some(name.to_owned()),
        protocol: if name == "udp" { Protocol::Udp } else { Protocol::Tcp },
        port: Some(8080),
    });
    Slice {
        name: "slice".to_owned(),
        service: Some("svc".to_owned()),
        headless: false,
        v6: false,
        ports: ports.to_vec(),
        endpoints,
    }
}

/// A Service of type LoadBalancer with every kind of frontend.
fn service() -> Service {
    let ports = [("http", Protocol::Tcp, 30_080), ("udp", Protocol::Udp, 30_081)];
    Service {
        kind: Type::LoadBalancer,
        ports: ports
            .map(|(name, protocol, node_port)| Port {
                name: name.to_owned(),
                protocol,
                port: 80,
                node_port: Some(node_port),
            })
            .to_vec(),
        external_ips: vec![ip("203.0.113.1")],
        ingress: vec![Ingress { ip: ip("192.0.2.1"), proxied: false }],
        ..Service::new("svc", vec![ip("10.200.1.10")])
    }
}

const CLUSTER_IP: &str = "10.200.1.10:80";
const EXTERNAL_IP: &str = "203.0.113.1:80";
const VIP: &str = "192.0.2.1:80";
const NODE_PORT: &str = "172.18.0.3:30080";
const EXTERNAL: [&str; 3] = [EXTERNAL_IP, VIP, NODE_PORT];

fn cluster(service: Service, endpoints: Vec<Endpoint>) -> Cluster {
    let mut cluster = beginning();
    cluster.take(&Step::Put(Object::Service(service)));
    cluster.take(&Step::Put(Object::Slice(slice(endpoints))));
    cluster
}

fn proxy<'a>(cluster: &'a Cluster, own: &'a [IpAddr]) -> Proxy<'a> {
    Proxy {
        cluster,
        node: HERE,
        own,
        detector: Detector::ClusterCidr(vec!["10.10.0.0/16".parse().expect("a range")]),
        masquerade_all: false,
        node_ports: NodePorts::Primary,
        deviations: &[],
    }
}

fn own() -> Vec<IpAddr> {
    vec![ip(NODE), ip("10.10.3.1")]
}

fn packet(client: Client, to: &str) -> Packet {
    Packet { client, to: to.parse().expect("a destination"), protocol: Protocol::Tcp }
}

fn verdict(cluster: &Cluster, client: Client, to: &str) -> Verdict {
    proxy(cluster, &own()).judge(&packet(client, to))
}

/// The verdict that sends to the endpoints of these nodes.
fn sent(nodes: &[usize], source: Source) -> Verdict {
    let at = |node: &usize| (NODES[*node].pod(3).v4, 8080).into();
    Verdict::Sent(nodes.iter().map(|node| (at(node), source)).collect())
}

fn both() -> Vec<Endpoint> {
    vec![endpoint(LOCAL), endpoint(REMOTE)]
}

#[test]
fn objects_that_count_1_1() {
    let plain = || cluster(service(), both());
    let changed = |change: &dyn Fn(&mut Service)| {
        let mut service = service();
        change(&mut service);
        cluster(service, both())
    };
    let with_slice = |change: &dyn Fn(&mut Slice)| {
        let mut cluster = plain();
        change(cluster.slices.get_mut("slice").expect("the slice"));
        cluster
    };
    let everything = sent(&[LOCAL, REMOTE], Kept);
    for (what, cluster, expected) in [
        ("an ordinary Service", plain(), everything.clone()),
        ("ExternalName", changed(&|it| it.kind = Type::ExternalName), Dropped),
        ("headless", changed(&|it| it.cluster_ips.clear()), Dropped),
        ("another proxy's", changed(&|it| it.proxy_name = Some("x".into())), Dropped),
        ("no address of the family", changed(&|it| it.cluster_ips = vec![ip("fd00::1")]), Dropped),
        ("a headless slice", with_slice(&|it| it.headless = true), Rejected),
        ("a slice of the other family", with_slice(&|it| it.v6 = true), Rejected),
        ("a slice of nobody", with_slice(&|it| it.service = None), Rejected),
        ("ports by another name", with_slice(&|it| it.ports[0].name = Some("x".into())), Rejected),
        ("ports without a name", with_slice(&|it| it.ports[0].name = None), Rejected),
        ("ports without a number", with_slice(&|it| it.ports[0].port = None), Rejected),
        ("the other protocol", with_slice(&|it| it.ports[0].protocol = Protocol::Udp), Rejected),
    ] {
        assert_eq!(verdict(&cluster, pod(), CLUSTER_IP), expected, "{what}");
    }
}

#[test]
fn frontends_without_a_cluster_address_of_their_family_1_1() {
    let mut service = service();
    service.cluster_ips = vec![ip("fd00:10:200:1::10")];
    let cluster = cluster(service, both());
    for to in EXTERNAL {
        assert_eq!(verdict(&cluster, outside(), to), NotAService, "{to}");
    }
}

#[test]
fn one_endpoint_in_two_slices_1_1() {
    let mut cluster = cluster(service(), vec![draining(endpoint(REMOTE))]);
    let mut second = slice(vec![endpoint(REMOTE)]);
    for (name, why) in [("a", "before"), ("z", "after")] {
        second.name = name.to_owned();
        let mut cluster = cluster.clone();
        cluster.take(&Step::Put(Object::Slice(second.clone())));
        assert_eq!(
            verdict(&cluster, pod(), CLUSTER_IP),
            sent(&[REMOTE], Kept),
            "the running pod counts, listed {why} the terminating one"
        );
    }
    second.endpoints = vec![down(draining(endpoint(REMOTE)))];
    cluster.take(&Step::Put(Object::Slice(second)));
    assert_eq!(
        verdict(&cluster, pod(), CLUSTER_IP),
        sent(&[REMOTE], Kept),
        "of two terminating, the first"
    );
}

#[test]
fn frontends_1_2() {
    let cluster = cluster(service(), both());
    for (client, to, expected) in [
        (pod(), CLUSTER_IP, sent(&[LOCAL, REMOTE], Kept)),
        (pod(), "10.200.1.10:81", Rejected),
        (pod(), "10.200.1.99:80", Dropped),
        (host(), "10.200.1.10:81", Rejected),
        (outside(), "10.200.1.99:80", Dropped),
        (outside(), "203.0.113.1:81", NotAService),
        (outside(), "192.0.2.1:81", NotAService),
        (outside(), "172.18.0.3:80", NotAService),
        (outside(), "172.18.0.2:30080", NotAService),
        (pod(), "10.10.3.1:30080", NotAService),
        (outside(), "10.10.3.3:8080", NotAService),
    ] {
        assert_eq!(verdict(&cluster, client, to), expected, "{client:?} to {to}");
    }
    let own = own();
    let ranges = ["10.10.3.0/24".parse().expect("a range")].to_vec();
    let proxy = Proxy { node_ports: NodePorts::Ranges(ranges), ..proxy(&cluster, &own) };
    assert_eq!(proxy.judge(&packet(outside(), NODE_PORT)), NotAService);
    assert_eq!(
        proxy.judge(&packet(outside(), "10.10.3.1:30080")),
        sent(&[LOCAL, REMOTE], NODE_SOURCE)
    );
}

#[test]
fn load_balancers_that_want_their_traffic_and_source_ranges_1_2() {
    let with = |ranges: &[&str], proxied| {
        let mut service = service();
        service.ingress[0].proxied = proxied;
        service.source_ranges =
            ranges.iter().map(|range| range.parse().expect("a range")).collect();
        cluster(service, both())
    };
    let all = || sent(&[LOCAL, REMOTE], NODE_SOURCE);
    for (ranges, proxied, client, to, expected) in [
        (&[][..], true, outside(), VIP, NotAService),
        (&[], false, outside(), VIP, all()),
        (&["172.18.0.100/32"], false, outside(), VIP, all()),
        (&["10.10.0.0/16"], false, outside(), VIP, Dropped),
        (&["10.10.0.0/16"], false, pod(), VIP, all()),
        (&["10.10.0.0/16"], false, outside(), NODE_PORT, all()),
        (&["10.10.0.0/16"], false, outside(), EXTERNAL_IP, all()),
        (&["10.10.0.0/16", "0.0.0.0/0"], false, outside(), VIP, all()),
        (&["fd00::/8"], false, outside(), VIP, all()),
        (&["172.18.0.3/32"], false, Client::Outside(ip("192.0.2.1")), VIP, all()),
        (&["172.18.0.4/32"], false, Client::Outside(ip("192.0.2.1")), VIP, Dropped),
    ] {
        let cluster = with(ranges, proxied);
        assert_eq!(verdict(&cluster, client, to), expected, "{ranges:?} {client:?} to {to}");
    }
}

#[test]
fn endpoints_1_3() {
    let zoned = |node, zone: &str| Endpoint { for_zones: vec![zone.to_owned()], ..endpoint(node) };
    let hinted =
        |node, name: &str| Endpoint { for_nodes: vec![name.to_owned()], ..zoned(node, "z1") };
    let (l, r) = (LOCAL, REMOTE);
    for (what, endpoints, expected) in [
        ("ready", both(), Some(vec![l, r])),
        ("one not ready", vec![endpoint(l), down(endpoint(r))], Some(vec![l])),
        ("terminating beside ready", vec![endpoint(l), draining(endpoint(r))], Some(vec![l])),
        ("only terminating", vec![draining(endpoint(r)), down(endpoint(l))], Some(vec![r])),
        ("none that serves", vec![down(endpoint(l)), down(endpoint(r))], None),
        ("zones", vec![zoned(l, "z2"), zoned(r, "z1")], Some(vec![r])),
        ("not all in zones", vec![endpoint(l), zoned(r, "z1")], Some(vec![l, r])),
        ("none for our zone", vec![zoned(l, "z2"), zoned(r, "z3")], Some(vec![l, r])),
        ("terminating without a zone", vec![draining(endpoint(l)), zoned(r, "z1")], Some(vec![r])),
        ("nodes before zones", vec![hinted(l, HERE), hinted(r, "x")], Some(vec![l])),
        ("none for our node", vec![hinted(l, "x"), hinted(r, "x")], Some(vec![l, r])),
        ("nodes of some only", vec![hinted(l, HERE), zoned(r, "z2")], Some(vec![l])),
    ] {
        let mut cluster = cluster(service(), endpoints);
        cluster.nodes.get_mut(HERE).expect("the node").zone = Some("z1".to_owned());
        let expected = expected.map_or(Rejected, |nodes| sent(&nodes, Kept));
        assert_eq!(verdict(&cluster, pod(), CLUSTER_IP), expected, "{what}");
    }
}

#[test]
fn policies_1_4() {
    let local = Service { internal_local: true, external_local: true, ..service() };
    let elsewhere = || vec![endpoint(REMOTE)];
    let (l, r) = (LOCAL, REMOTE);
    let falls_back = vec![draining(endpoint(l)), endpoint(r)];
    let table = [
        (both(), pod(), CLUSTER_IP, sent(&[l], Kept)),
        (both(), host(), CLUSTER_IP, sent(&[l], NODE_SOURCE)),
        (elsewhere(), pod(), CLUSTER_IP, Dropped),
        (falls_back, pod(), CLUSTER_IP, sent(&[l], Kept)),
        (vec![down(endpoint(l))], pod(), CLUSTER_IP, Rejected),
    ];
    for (endpoints, client, to, expected) in table {
        let cluster = cluster(local.clone(), endpoints);
        assert_eq!(verdict(&cluster, client, to), expected, "{client:?} to {to}");
    }
    for to in EXTERNAL {
        for (endpoints, client, expected) in [
            (both(), outside(), sent(&[l], Kept)),
            (elsewhere(), outside(), Dropped),
            (elsewhere(), pod(), sent(&[r], Kept)),
            (both(), pod(), sent(&[l, r], Kept)),
            (elsewhere(), host(), sent(&[r], NODE_SOURCE)),
            (both(), host(), sent(&[l, r], NODE_SOURCE)),
            (vec![draining(endpoint(l)), endpoint(r)], outside(), sent(&[l], Kept)),
            (vec![], outside(), Rejected),
            (vec![], pod(), Rejected),
        ] {
            let cluster = cluster(local.clone(), endpoints);
            assert_eq!(verdict(&cluster, client, to), expected, "Local: {client:?} to {to}");
        }
        let cluster = cluster(service(), both());
        for client in [outside(), pod(), host()] {
            let expected = sent(&[l, r], NODE_SOURCE);
            assert_eq!(verdict(&cluster, client, to), expected, "Cluster: {client:?} to {to}");
        }
    }
}

#[test]
fn masquerade_1_6() {
    let own = own();
    let hairpin = cluster(service(), vec![Endpoint { address: ip(POD), ..endpoint(LOCAL) }]);
    let Verdict::Sent(backends) = verdict(&hairpin, pod(), CLUSTER_IP) else { panic!("not sent") };
    assert!(backends.values().all(|source| *source == NODE_SOURCE), "hairpin");
    let cluster = cluster(service(), vec![endpoint(REMOTE)]);
    let with =
        |detector, masquerade_all| Proxy { detector, masquerade_all, ..proxy(&cluster, &own) };
    let cidr = || Detector::ClusterCidr(vec!["10.10.0.0/16".parse().expect("a range")]);
    for (detector, all, client, expected) in [
        (cidr(), false, pod(), Kept),
        (cidr(), false, outside(), NODE_SOURCE),
        (cidr(), false, Client::Outside(ip(REMOTE_POD)), Kept),
        (cidr(), true, pod(), NODE_SOURCE),
        (Detector::None, false, outside(), Kept),
        (Detector::None, true, outside(), NODE_SOURCE),
    ] {
        let verdict = with(detector, all).judge(&packet(client, CLUSTER_IP));
        assert_eq!(verdict, sent(&[REMOTE], expected), "{client:?}, all: {all}");
    }
}

#[test]
fn a_backend_in_the_nodes_own_network_sees_the_client_1_6() {
    let endpoint = Endpoint { address: ip(NODE), ..endpoint(LOCAL) };
    let cluster = cluster(service(), vec![endpoint]);
    for to in [CLUSTER_IP, NODE_PORT] {
        let Verdict::Sent(backends) = verdict(&cluster, outside(), to) else { panic!("not sent") };
        assert!(backends.values().all(|source| *source == Kept), "{to}");
    }
}

#[test]
fn the_older_of_two_claims_wins() {
    let mut cluster = cluster(Service { created: 5, ..service() }, both());
    let mut other = Service { created: 3, ..service() };
    other.name = "other".to_owned();
    other.cluster_ips = vec![ip("10.200.1.11")];
    cluster.take(&Step::Put(Object::Service(other.clone())));
    assert_eq!(verdict(&cluster, outside(), EXTERNAL_IP), Rejected);
    other.created = 9;
    cluster.take(&Step::Put(Object::Service(other)));
    assert_eq!(verdict(&cluster, outside(), EXTERNAL_IP), sent(&[LOCAL, REMOTE], NODE_SOURCE));
}

#[test]
fn a_pod_of_another_node_is_what_the_deviation_says() {
    let local = Service { external_local: true, ..service() };
    let cluster = cluster(local, vec![endpoint(REMOTE)]);
    let own = own();
    let remote = Client::Outside(ip("10.10.2.2"));
    let proxy = proxy(&cluster, &own);
    assert_eq!(proxy.judge(&packet(remote, NODE_PORT)), sent(&[REMOTE], Kept));
    let proxy = Proxy { deviations: &Deviation::ALL, ..proxy };
    assert_eq!(proxy.judge(&packet(remote, NODE_PORT)), Dropped);
}

#[test]
fn a_node_port_of_another_node_is_judged_there() {
    let cluster = cluster(service(), vec![endpoint(REMOTE)]);
    let (here, there) = (own(), vec![ip("172.18.0.5"), ip("10.10.1.1")]);
    let to = "172.18.0.5:30080".parse().expect("a destination");
    let journey = journey(&cluster, HERE, pod(), to, Protocol::Tcp, &|node| {
        let own = if node == HERE { &here } else { &there };
        Proxy { node, ..proxy(&cluster, own) }
    });
    assert_eq!(journey.node, NODES[REMOTE].name);
    assert_eq!(journey.packet.client, Client::Outside(ip(POD)));
    assert_eq!(journey.verdict, sent(&[REMOTE], NODE_SOURCE));
    let seen: Vec<IpAddr> = journey.seen.into_values().flatten().collect();
    assert_eq!(seen, [ip("10.10.1.1")]);
}

//! Direct server return: what one node passes on, the other one serves and answers.

use crate::{
    frame::{describe, fragments, frame, frame_with, icmp_error},
    node::{
        DEVICE, FROM_POD, FROM_UPLINK, GATEWAY, GATEWAY6, NODE, NODE6, Node, TO_UPLINK, UPLINK,
        UPLINK_LINES,
        Verdict::{Drop, Next, Pass, Redirect},
        XDP_UPLINK, network,
    },
    tunnel::{PEER, describe_both, wrap},
};
use datapath_common::{ConfigFlags, FlowFlags, Outcome};
use datapath_user::{
    model::{
        Endpoint, Event, Forwarding, Model, Node as NodeObject, ObjectName, Protocol, Service,
        ServicePort, ServiceType, Slice, SlicePort,
    },
    plan::{Network, Planner, PodAddress, Routing, Settings, Tables, Uplink},
};
use std::{net::IpAddr, num::NonZeroU16};

mod policy;

/// The other node's IPv6 address.
const PEER6: &str = "fc00:f853:ccd:e793::5";
/// An address of this node that the others do not know.
const FURTHER: &str = "172.18.0.33";

/// Addresses, and the nodes that have them.
type Endpoints = &'static [(&'static str, &'static str)];

/// Services `(node port, last byte of the external address, endpoints)`: where the endpoints of the IPv4
/// one are; those of the IPv6 one are the same pods'.
const SERVICES: [(u16, u8, Endpoints); 5] = [
    (30_001, 1, &[("10.10.1.7", "n2"), ("fd00:10:10:1::7", "n2")]),
    (30_002, 2, &[("10.10.3.5", "n1"), ("fd00:10:10:3::5", "n1")]),
    (30_003, 3, &[(PEER, "n2"), (PEER6, "n2")]),
    (30_004, 4, &[(NODE, "n1"), (NODE6, "n1")]),
    (30_005, 5, &[]),
];
/// Another one, which keeps to SNAT.
const SNAT: u16 = 30_009;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn number(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port")
}

fn object(name: &str, v4: &str, v6: &str, ranges: [&str; 2]) -> Event {
    let mut node = NodeObject::new(name);
    (node.v4, node.v6) = (v4.parse().ok(), v6.parse().ok());
    node.pod_cidrs = ranges.iter().map(|range| range.parse().expect("a range")).collect();
    Event::Node(node)
}

/// Both protocols at one node port and one external address of each family.
fn service(node_port: u16, last: u8, forwarding: Option<Forwarding>) -> Service {
    let mut service = Service::new(ObjectName::namespaced("default", &format!("s{node_port}")));
    service.kind = ServiceType::NodePort;
    service.cluster_ips =
        [ip(&format!("10.200.1.{last}")), ip(&format!("fd00:10:200:1::{last}"))].into();
    service.external_ips =
        [ip(&format!("203.0.113.{last}")), ip(&format!("2001:db8:113::{last}"))].into();
    service.ports = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]
        .map(|(name, protocol)| ServicePort {
            name: name.into(),
            protocol,
            port: number(80),
            node_port: Some(number(node_port)),
        })
        .into();
    service.forwarding = forwarding;
    service
}

fn slice(service: &Service, family: &str, endpoints: &[(&str, &str)]) -> Event {
    let of_family =
        endpoints.iter().filter(|(address, _)| address.contains(':') == (family == "6"));
    Event::Slice(Slice {
        name: ObjectName::namespaced("default", &format!("{}-{family}", service.name.name())),
        service: service.name.clone(),
        ports: [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]
            .map(|(name, protocol)| SlicePort { name: name.into(), protocol, port: number(8080) })
            .into(),
        endpoints: of_family
            .map(|(address, node)| {
                let mut endpoint = Endpoint::new(ip(address));
                endpoint.node = Some((*node).into());
                endpoint
            })
            .collect(),
        trigger_time: None,
    })
}

fn kernel_network(device: u32) -> Network {
    let pods = [("10.10.3.5", GATEWAY), ("fd00:10:10:3::5", GATEWAY6)].map(|(pod, gateway)| {
        (ip(pod), PodAddress { device: DEVICE, mac: [0; 6], gateway: Some(ip(gateway)) })
    });
    Network {
        uplinks: vec![Uplink { device, mtu: 1500, mac: [2, 0, 0, 0, 0, 3] }],
        uplink_addresses: [format!("{NODE}/16"), format!("{NODE6}/64")]
            .map(|text| text.parse().expect("an address"))
            .to_vec(),
        pods: pods.into(),
        host_addresses: [NODE, NODE6, FURTHER].map(ip).into(),
        routes: [("10.10.1.0/24", PEER), ("fd00:10:10:1::/64", PEER6)]
            .map(|(range, via)| (range.parse().expect("a range"), ip(via), device))
            .into(),
        ..Network::default()
    }
}

/// `n1`, the node under test, with what a planner has written there. The Services ask for direct server
/// return themselves, or the node's operator does.
fn reference(routing: Routing, by_annotation: bool, device: u32) -> Option<Node> {
    let (of_node, of_service) = if by_annotation {
        (Forwarding::Snat, Some(Forwarding::Dsr))
    } else {
        (Forwarding::Dsr, None)
    };
    let services = SERVICES
        .map(|(node_port, last, endpoints)| (service(node_port, last, of_service), endpoints));
    let snat = (service(SNAT, 9, Some(Forwarding::Snat)), SERVICES[0].2);
    planned(routing, of_node, device, services.into_iter().chain([snat]))
}

fn planned(
    routing: Routing,
    forwarding: Forwarding,
    device: u32,
    services: impl IntoIterator<Item = (Service, Endpoints)>,
) -> Option<Node> {
    let mut node = Node::load()?;
    let mut settings = Settings::new("n1");
    settings.routing = routing;
    settings.node_port_addresses = "all".parse().expect("addresses");
    settings.forwarding = forwarding;
    let mut planner = Planner::new(settings, &Tables::default());
    let mut model = Model::default();
    model.apply(object("n1", NODE, NODE6, ["10.10.3.0/24", "fd00:10:10:3::/64"]));
    model.apply(object("n2", PEER, PEER6, ["10.10.1.0/24", "fd00:10:10:1::/64"]));
    for (service, endpoints) in services {
        model.apply(slice(&service, "4", endpoints));
        model.apply(slice(&service, "6", endpoints));
        model.apply(Event::Service(service));
    }
    node.apply(&planner.update_network(&model, kernel_network(device)));
    let dirty = model.take_dirty();
    node.apply(&planner.update(&model, &dirty));
    assert!(planner.has_dsr());
    let native =
        if planner.carries_pods() { ConfigFlags::NATIVE_ROUTING } else { ConfigFlags::default() };
    node.configure(native.with(ConfigFlags::TUNNELS));
    Some(node)
}

const ROUTINGS: [Routing; 4] = [Routing::None, Routing::Auto, Routing::Native, Routing::Ipip];

#[test]
fn a_client_s_packet_is_passed_on_as_it_is() {
    for (routing, by_annotation) in ROUTINGS.into_iter().zip([true, false, true, false]) {
        let Some(mut node) = reference(routing, by_annotation, DEVICE) else { return };
        for (sent, protocol) in [
            ("192.0.2.9:40000 > 172.18.0.3:30001 tcp S", 4),
            ("192.0.2.9:40000 > 172.18.0.3:30001 tcp A", 4),
            ("192.0.2.9:40000 > 172.18.0.3:30001 udp", 4),
            ("192.0.2.9:40000 > 172.18.0.3:30001 udp", 4),
            ("192.0.2.9:40000 > 203.0.113.1:80 tcp S", 4),
            ("[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30001 tcp S", 41),
            ("[2001:db8::9]:40000 > [2001:db8:113::1]:80 udp", 41),
            // The backend is the node itself.
            ("192.0.2.9:40000 > 172.18.0.3:30003 tcp S", 4),
            ("[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30003 udp", 41),
        ] {
            let (verdict, out) = node.run(FROM_UPLINK, &frame(sent));
            let expected = format!("{NODE} > {PEER} {protocol} ttl=64 class=0 | {sent}");
            assert_eq!((verdict, describe_both(&out)), (Redirect, expected), "{routing:?}");
        }
        let flows = node.flows();
        assert_eq!(flows.len(), 7, "one entry each: {flows:?}");
        assert!(flows.iter().all(|(_, flow)| flow.flags.has(FlowFlags::DSR)));
        assert_eq!(node.count(Outcome::FlowTranslated), 0);
        assert_eq!(node.count(Outcome::FlowMoved), 0);
        assert_eq!(node.tunnel_stats(PEER).sent_packets, 9);
    }
}

#[test]
fn fragments_are_passed_on_each_for_itself() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    let (first, later) = fragments(&frame("192.0.2.9:40000 > 172.18.0.3:30001 udp"), 8);
    for fragment in [first, later] {
        let (verdict, out) = node.run(FROM_UPLINK, &fragment);
        assert_eq!((verdict, &out[34..]), (Redirect, &fragment[14..]));
    }
}

/// What is not from outside, has dialled what only this node serves, or wants it so.
#[test]
fn others_are_answered_by_way_of_this_node() {
    for routing in ROUTINGS {
        let Some(mut node) = reference(routing, true, DEVICE) else { return };
        network("route add default dev lo\nroute add ::/0 dev lo\n");
        for (hook, sent) in [
            (FROM_POD, "10.10.3.5:40000 > 172.18.0.3:30001 tcp S"),
            (TO_UPLINK, "172.18.0.3:40000 > 203.0.113.1:80 tcp S"),
            (FROM_UPLINK, "10.10.1.8:40000 > 172.18.0.3:30001 tcp S"),
            (FROM_UPLINK, "172.18.0.5:40000 > 172.18.0.3:30001 udp"),
            (FROM_UPLINK, "192.0.2.9:40000 > 172.18.0.33:30001 tcp S"),
            (FROM_UPLINK, "192.0.2.9:40000 > 172.18.0.3:30009 tcp S"),
            (FROM_UPLINK, "[2001:db8::9]:40000 > [2001:db8:113::9]:80 tcp S"),
        ] {
            node.run(hook, &frame(sent));
            let flows = node.flows();
            assert_eq!(flows.len(), 2, "{routing:?} {hook} {sent}");
            for (tuple, flow) in flows {
                assert!(!flow.flags.has(FlowFlags::DSR), "{routing:?} {hook} {sent}");
                node.remove_flow(&tuple);
            }
        }
    }
}

#[test]
fn a_backend_here_answers_the_client_itself() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    for (sent, expected) in [
        (
            "192.0.2.9:40000 > 172.18.0.3:30002 tcp S",
            "192.0.2.9:40000 > 10.10.3.5:8080 tcp S ttl=63",
        ),
        (
            "[2001:db8::9]:40000 > [2001:db8:113::2]:80 udp",
            "[2001:db8::9]:40000 > [fd00:10:10:3::5]:8080 udp ttl=63",
        ),
    ] {
        let (verdict, out) = node.run(FROM_UPLINK, &frame(sent));
        assert_eq!((verdict, describe(&out).as_str()), (Redirect, expected));
    }
}

#[test]
fn what_is_passed_on_is_served_and_answered_directly() {
    for routing in ROUTINGS {
        let Some(mut node) = reference(routing, true, DEVICE) else { return };
        network("route add default dev lo\nroute add ::/0 dev lo\n");
        for (sent, translated, answer, answered) in [
            (
                "192.0.2.9:40000 > 172.18.0.5:30002 tcp S",
                "192.0.2.9:40000 > 10.10.3.5:8080 tcp S",
                "10.10.3.5:8080 > 192.0.2.9:40000 tcp SA",
                "172.18.0.5:30002 > 192.0.2.9:40000 tcp SA ttl=63",
            ),
            (
                "192.0.2.9:40000 > 172.18.0.5:30002 tcp A",
                "192.0.2.9:40000 > 10.10.3.5:8080 tcp A",
                "10.10.3.5:8080 > 192.0.2.9:40000 tcp A",
                "172.18.0.5:30002 > 192.0.2.9:40000 tcp A ttl=63",
            ),
            (
                "192.0.2.9:40000 > 203.0.113.2:80 udp",
                "192.0.2.9:40000 > 10.10.3.5:8080 udp",
                "10.10.3.5:8080 > 192.0.2.9:40000 udp",
                "203.0.113.2:80 > 192.0.2.9:40000 udp ttl=63",
            ),
            (
                "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::5]:30002 udp",
                "[2001:db8::9]:40000 > [fd00:10:10:3::5]:8080 udp",
                "[fd00:10:10:3::5]:8080 > [2001:db8::9]:40000 udp",
                "[fc00:f853:ccd:e793::5]:30002 > [2001:db8::9]:40000 udp ttl=63",
            ),
        ] {
            let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &frame(sent)));
            // Where pods are not ours to reach, the stack takes it there.
            let (expected, aged) =
                if routing == Routing::None { (Next, "") } else { (Redirect, " ttl=63") };
            assert_eq!(
                (verdict, describe(&out)),
                (expected, format!("{translated}{aged}")),
                "{routing:?}"
            );
            let (verdict, out) = node.run(FROM_POD, &frame(answer));
            assert_eq!((verdict, describe(&out).as_str()), (Redirect, answered), "{routing:?}");
        }
        assert_eq!(node.count(Outcome::FlowMoved), 0);
    }
}

#[test]
fn the_node_s_own_processes_answer_directly_too() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    let sent = frame("192.0.2.9:40000 > 172.18.0.5:30004 tcp S");
    let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &sent));
    assert_eq!(
        (verdict, describe(&out).as_str()),
        (Next, "192.0.2.9:40000 > 172.18.0.3:8080 tcp S")
    );
    let (verdict, out) = node.run(TO_UPLINK, &frame("172.18.0.3:8080 > 192.0.2.9:40000 tcp SA"));
    assert_eq!(
        (verdict, describe(&out).as_str()),
        (Next, "172.18.0.5:30004 > 192.0.2.9:40000 tcp SA")
    );
}

/// The node itself tells the client, by its own way: what the client has dialled may be an address of the
/// node that has passed the segment on, which would take the answer for its own.
#[test]
fn a_client_is_told_that_its_pod_is_gone() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    network("route add default dev lo\nroute add ::/0 dev lo\n");
    let connections = [
        ("192.0.2.9:40000 > 172.18.0.5:30002", "172.18.0.5:30002 > 192.0.2.9:40000"),
        (
            "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::5]:30002",
            "[fc00:f853:ccd:e793::5]:30002 > [2001:db8::9]:40000",
        ),
    ];
    for (sent, _) in connections {
        node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &frame(&format!("{sent} tcp S"))));
    }
    node.remove_address("10.10.3.5");
    node.remove_address("fd00:10:10:3::5");
    for (sent, answer) in connections {
        let mut sent = wrap(PEER, NODE, 0, &frame(&format!("{sent} tcp A")));
        sent[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 5]);
        let (verdict, out) = node.run(FROM_UPLINK, &sent);
        assert_eq!((verdict, describe(&out)), (Redirect, format!("{answer} tcp R")));
        assert_eq!(out[..12], sent[..12], "the routing table names the neighbour");
    }
    assert_eq!(node.count(Outcome::ResetNoPod), 2);
}

/// Nothing is passed on twice: not where the backends are elsewhere again, nor where the client has come by
/// this node itself before.
#[test]
fn nothing_is_passed_on_twice() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    for (sent, verdict, outcome) in [
        ("192.0.2.9:1 > 203.0.113.1:80 tcp S", Drop, Outcome::DroppedNoLocalEndpoint),
        ("192.0.2.9:1 > 172.18.0.5:30001 udp", Drop, Outcome::DroppedNoLocalEndpoint),
        ("[2001:db8::9]:1 > [2001:db8:113::1]:80 udp", Drop, Outcome::DroppedNoLocalEndpoint),
        ("192.0.2.9:1 > 203.0.113.5:80 tcp S", Redirect, Outcome::RejectedNoEndpoint),
    ] {
        let before = node.count(outcome);
        assert_eq!(node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &frame(sent))).0, verdict, "{sent}");
        assert_eq!(node.count(outcome), before + 1, "{sent}");
    }
    for sent in ["192.0.2.9:2 > 203.0.113.1:80 tcp S", "192.0.2.9:2 > 203.0.113.1:80 udp"] {
        let (verdict, out) = node.run(FROM_UPLINK, &frame(sent));
        assert_eq!((verdict, out[23]), (Redirect, 4), "{sent}");
        assert_eq!(node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &frame(sent))).0, Drop, "{sent}");
    }
    assert_eq!(node.count(Outcome::Wrapped), 2);
}

#[test]
fn nothing_else_may_come_out_of_a_tunnel() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    for (title, inner) in [
        ("to a pod", "192.0.2.9:1 > 10.10.3.5:8080 tcp S"),
        ("to a cluster address", "192.0.2.9:1 > 10.200.1.2:80 tcp S"),
        ("to a node port of this node", "192.0.2.9:1 > 172.18.0.3:30002 tcp S"),
        ("to another port", "192.0.2.9:1 > 172.18.0.5:22 tcp S"),
        ("to another protocol", "192.0.2.9:1 > 203.0.113.2:80 sctp"),
        ("to a Service without it", "192.0.2.9:1 > 172.18.0.5:30009 tcp S"),
        ("an external address without it", "192.0.2.9:1 > 203.0.113.9:80 tcp S"),
        ("an echo", "192.0.2.9 > 203.0.113.2 icmp 8/0"),
        ("from a pod here", "10.10.3.5:1 > 203.0.113.2:80 tcp S"),
        ("an error about nothing", "192.0.2.9 > 203.0.113.2 icmp 3/4"),
        ("the same in IPv6", "[2001:db8::9]:1 > [fd00:10:10:3::5]:8080 udp"),
    ] {
        let before = node.count(Outcome::DroppedSpoofed);
        let (verdict, _) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &frame(inner)));
        assert_eq!(verdict, Drop, "{title}");
        assert_eq!(node.count(Outcome::DroppedSpoofed), before + 1, "{title}");
    }
    let good = frame("192.0.2.9:1 > 203.0.113.2:80 tcp S");
    for (title, packet, outcome) in [
        ("from no node", wrap("172.18.0.100", NODE, 0, &good), Outcome::DroppedUnknownPeer),
        (
            "with this node's own address",
            wrap(PEER, NODE, 0, &frame("172.18.0.3:1 > 203.0.113.2:80 tcp S")),
            Outcome::DroppedSpoofed,
        ),
        (
            "with a loopback address",
            wrap(PEER, NODE, 0, &frame("127.0.0.1:1 > 203.0.113.2:80 tcp S")),
            Outcome::DroppedMartian,
        ),
    ] {
        let before = node.count(outcome);
        assert_eq!(node.run(FROM_UPLINK, &packet).0, Drop, "{title}");
        assert_eq!(node.count(outcome), before + 1, "{title}");
    }
    assert!(node.flows().is_empty());
}

#[test]
fn the_client_is_told_what_fits() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    let sent = "192.0.2.9:40000 > 172.18.0.3:30001 tcp A";
    let (verdict, out) = node.run(FROM_UPLINK, &frame_with(sent, &[7; 1480 - 40]));
    assert_eq!((verdict, out.len()), (Redirect, 1514), "the largest that fits");
    let (verdict, out) = node.run(FROM_UPLINK, &frame_with(sent, &[7; 1481 - 40]));
    let told = "172.18.0.3 > 192.0.2.9 icmp 3/4 about 192.0.2.9:40000 > 172.18.0.3:30001";
    assert_eq!((verdict, describe(&out).as_str()), (Redirect, told));
    assert_eq!(out[40..42], 1480_u16.to_be_bytes());
}

/// A router tells the address that the client has dialled what is wrong with the backend's answers.
#[test]
fn errors_about_answers_find_the_backend() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    node.run(FROM_UPLINK, &frame("192.0.2.9:40000 > 172.18.0.3:30001 tcp S"));
    let quoted = frame("172.18.0.3:30001 > 192.0.2.9:40000 tcp A");
    let error = icmp_error("198.51.100.1", NODE, "3/4", &quoted);
    let (verdict, out) = node.run(FROM_UPLINK, &error);
    let expected = format!("{NODE} > {PEER} 4 ttl=64 class=0 | {}", describe(&error));
    assert_eq!((verdict, describe_both(&out)), (Redirect, expected));
    // The other side of the same.
    let request = frame("192.0.2.9:40000 > 172.18.0.5:30002 tcp S");
    node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &request));
    let quoted = frame("172.18.0.5:30002 > 192.0.2.9:40000 tcp A");
    let error = icmp_error("198.51.100.1", PEER, "3/4", &quoted);
    let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &error));
    let expected = "198.51.100.1 > 10.10.3.5 icmp 3/4 about 10.10.3.5:8080 > 192.0.2.9:40000";
    assert_eq!(verdict, Redirect);
    assert!(describe(&out).starts_with(expected), "{}", describe(&out));
}

#[test]
fn a_flow_outlives_the_silence_of_its_answers() {
    let Some(mut node) = reference(Routing::Native, true, DEVICE) else { return };
    node.run(FROM_UPLINK, &frame("192.0.2.9:40000 > 172.18.0.3:30001 tcp S"));
    node.run(FROM_UPLINK, &frame("192.0.2.9:40000 > 172.18.0.3:30001 tcp A"));
    let (tuple, mut flow) = node.flows()[0];
    // An established connection lasts a day without a word; one that is opening, two minutes.
    flow.last_seen = flow.last_seen.saturating_sub(3_600_000_000_000);
    node.put_flow(tuple, flow);
    node.sweep();
    assert_eq!(node.flows().len(), 1);
}

#[test]
fn xdp_leaves_all_of_it_to_tc() {
    let Some(mut node) = reference(Routing::Native, true, UPLINK) else { return };
    network(UPLINK_LINES);
    let sent = frame("192.0.2.9:40000 > 172.18.0.3:30001 tcp S");
    let passed_on = wrap(PEER, NODE, 0, &frame("192.0.2.9:40000 > 172.18.0.5:30002 tcp S"));
    for packet in [&sent, &passed_on] {
        assert_eq!(node.run(XDP_UPLINK, packet), (Pass, packet.clone()));
    }
    assert!(node.flows().is_empty());
    assert_eq!(node.run(FROM_UPLINK, &sent).0, Redirect);
    let later = frame("192.0.2.9:40000 > 172.18.0.3:30001 tcp A");
    assert_eq!(node.run(XDP_UPLINK, &later), (Pass, later.clone()), "of a flow that there is");
}

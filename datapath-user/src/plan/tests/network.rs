//! Where node ports are served, and which ways lead to pods.

use super::{ip, network, own_node};
use crate::{
    model::{Event, Model, Node, ObjectName, ServiceCidr},
    plan::{Network, NodePortAddresses, Planner, Routing, Settings, Tables, Uplink},
};
use datapath_common::{Addr, Address, AddressKind, LpmKey, Route, RouteKind};
use std::{collections::BTreeSet, net::IpAddr};

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

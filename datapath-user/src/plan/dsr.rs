//! Direct server return: what it adds to the tables.

use super::{
    Network, Planner, Routing, Settings, Tables, Uplink,
    tests::{endpoint, ip, own_node, plan_with, port, service, slice, view},
};
use crate::model::{
    Event, Forwarding, Kind, Model, Node, Service, ServiceType,
    TrafficPolicy::{self, Cluster, Local},
};
use datapath_common::{FrontendFlags, FrontendKey, RouteKind};
use std::collections::BTreeSet;

fn published(policy: TrafficPolicy, forwarding: Option<Forwarding>) -> Service {
    let mut service = service("web", &["10.200.1.10"]);
    service.kind = ServiceType::NodePort;
    service.ports[0].node_port = Some(port(30_001));
    service.external_ips = [ip("203.0.113.1")].into();
    service.external_policy = policy;
    service.forwarding = forwarding;
    service
}

fn flagged(tables: &Tables) -> usize {
    tables.frontends.values().filter(|found| found.flags.has(FrontendFlags::DSR)).count()
}

fn passed_on(tables: &Tables) -> usize {
    tables.frontends.keys().filter(|key| key.origin == FrontendKey::PASSED_ON).count()
}

#[test]
fn a_service_says_otherwise_than_the_node() {
    use Forwarding::{Dsr, Snat};
    for (of_node, of_service, policy, frontends) in [
        (Snat, None, Cluster, 0),
        (Dsr, None, Cluster, 2),
        (Snat, Some(Dsr), Cluster, 2),
        (Dsr, Some(Snat), Cluster, 0),
        // Nothing is sent to other nodes.
        (Dsr, None, Local, 0),
    ] {
        let mut settings = Settings::new("n1");
        settings.forwarding = of_node;
        let slice = slice("web-1", "web", &[endpoint("10.10.1.2", 1)]);
        let service = published(policy, of_service);
        let tables = plan_with(settings, [Event::Service(service), Event::Slice(slice)]);
        let found = (flagged(&tables), passed_on(&tables));
        assert_eq!(found, (frontends, frontends), "{of_node:?} {of_service:?} {policy:?}");
    }
}

#[test]
fn what_is_passed_on_ends_here() {
    let drop = FrontendFlags::DROP_OUTSIDE;
    let here = endpoint("10.10.1.2", 1);
    let mut draining = endpoint("10.10.1.3", 1);
    (draining.conditions.ready, draining.conditions.terminating) = (false, true);
    let there = endpoint("10.10.2.2", 2);
    for (endpoints, outside, flags) in [
        (vec![here.clone(), there.clone()], vec!["10.10.1.2:8080"], FrontendFlags::default()),
        (vec![draining, there.clone()], vec!["10.10.1.3:8080"], FrontendFlags::default()),
        (vec![there], vec![], drop),
        (vec![], vec![], FrontendFlags::default()),
    ] {
        let events = [
            Event::Service(published(Cluster, Some(Forwarding::Dsr))),
            Event::Slice(slice("web-1", "web", &endpoints)),
        ];
        let seen = view(&plan_with(Settings::new("n1"), events)).frontends;
        for frontend in ["0.0.0.0 30001/TCP passed on", "203.0.113.1 80/TCP passed on"] {
            let found = &seen[frontend];
            assert_eq!((&found.inside, found.flags), (&found.outside, flags), "{frontend}");
            assert_eq!(found.outside, outside, "{frontend}");
        }
    }
}

/// Nodes, and in whichever mode the ranges of pods that are known to be theirs, are there for as long as a
/// Service needs them.
#[test]
fn nodes_are_known_while_a_service_needs_them() {
    let peer = (RouteKind::PEER.0, ip("172.18.0.5"), 1480);
    for (routing, range) in [
        (Routing::None, Some((RouteKind::FOREIGN.0, ip("172.18.0.5"), 1500))),
        (Routing::Auto, None),
    ] {
        let mut settings = Settings::new("n1");
        settings.routing = routing;
        let mut planner = Planner::new(settings, &Tables::default());
        let mut model = Model::default();
        model.apply(Event::Node(own_node()));
        let mut node = Node::new("n2");
        node.v4 = Some([172, 18, 0, 5].into());
        node.pod_cidrs = ["10.10.2.0/24".parse().expect("a range")].into();
        model.apply(Event::Node(node));
        let network = Network {
            uplinks: vec![Uplink { device: 2, mtu: 1500, mac: [1; 6] }],
            routes: [("10.10.2.0/24".parse().expect("a range"), ip("172.18.0.5"), 2)].into(),
            ..Network::default()
        };
        planner.update_network(&model, network);
        let before = planner.tables();
        let service = published(Cluster, Some(Forwarding::Dsr));
        let name = service.name.clone();
        for (event, expected) in [
            (Event::Service(service), [Some(peer), range].into_iter().flatten().collect()),
            (Event::Deleted(Kind::Service, name), BTreeSet::new()),
        ] {
            model.apply(event);
            let dirty = model.take_dirty();
            planner.update(&model, &dirty);
            let added: BTreeSet<_> = planner
                .tables()
                .routes
                .iter()
                .filter(|(key, _)| !before.routes.contains_key(key))
                .map(|(_, route)| (route.kind.0, route.next_hop.ip(), route.mtu))
                .collect();
            assert_eq!(added.len(), expected.len(), "{routing:?}: {added:?}");
            assert_eq!(planner.has_dsr(), !expected.is_empty(), "{routing:?}");
            assert!(added.is_superset(&expected), "{routing:?}: {added:?}");
        }
    }
}

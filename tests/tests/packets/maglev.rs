//! Nodes that have never heard of each other choose the same backend for a packet.

use crate::{
    frame::{describe, frame},
    node::{FROM_UPLINK, NODE, Node, Verdict::Redirect},
};
use datapath_common::RouteKind;
use datapath_user::{
    model::{
        Algorithm, Endpoint, Event, Model, ObjectName, Protocol, Service, ServicePort, Slice,
        SlicePort,
    },
    plan::{Planner, Settings, Tables},
};
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU16,
};

/// Last bytes of the endpoints' addresses.
const ENDPOINTS: [u8; 5] = [10, 11, 12, 13, 14];
const CLIENTS: u8 = 200;

/// A node that has been told of the Services of these numbers, in that order, each with the endpoints in
/// that order.
fn node(services: &[u8], endpoints: &[u8], affinity: Option<u32>) -> Option<Node> {
    let mut node = Node::load()?;
    node.host(NODE);
    node.route("10.10.1.0", 24, RouteKind::REMOTE, "172.18.0.5");
    let mut planner = Planner::new(Settings::new("n1"), &Tables::default());
    let mut model = Model::default();
    for number in services {
        for event in [service(*number, affinity), slice(*number, endpoints)] {
            model.apply(event);
        }
        let dirty = model.take_dirty();
        node.apply(&planner.update(&model, &dirty));
    }
    Some(node)
}

fn name(number: u8) -> ObjectName {
    ObjectName::namespaced("default", &format!("s{number}"))
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a port")
}

fn service(number: u8, affinity: Option<u32>) -> Event {
    let mut service = Service::new(name(number));
    service.cluster_ips = [[10, 200, 1, number].into()].into();
    service.external_ips = [[203, 0, 113, number].into()].into();
    let (name, protocol) = ("http".into(), Protocol::Tcp);
    service.ports = [ServicePort { name, protocol, port: port(80), node_port: None }].into();
    service.affinity = affinity;
    service.algorithm = Some(Algorithm::Maglev);
    Event::Service(service)
}

fn slice(number: u8, endpoints: &[u8]) -> Event {
    Event::Slice(Slice {
        name: name(number),
        service: name(number),
        ports: [SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: port(8080) }]
            .into(),
        endpoints: endpoints.iter().map(|last| Endpoint::new([10, 10, 1, *last].into())).collect(),
        trigger_time: None,
    })
}

/// Which endpoint each of many clients gets at the external address of Service 9.
fn choices(node: &mut Node) -> BTreeMap<String, String> {
    let choice = |client: u8| {
        let sent =
            format!("192.0.2.{client}:{} > 203.0.113.9:80 tcp S", 40_000 + u16::from(client));
        let (verdict, out) = node.run(FROM_UPLINK, &frame(&sent));
        assert_eq!(verdict, Redirect, "{sent}");
        let out = describe(&out);
        let (_, to) = out.split_once(" > ").expect("a packet");
        (sent, to.split_whitespace().next().expect("an address").to_owned())
    };
    (1..=CLIENTS).map(choice).collect()
}

#[test]
fn nodes_agree_whatever_they_were_told_first() {
    let Some(mut one) = node(&[9], &ENDPOINTS, None) else { return };
    let mut reversed = ENDPOINTS;
    reversed.reverse();
    let Some(mut other) = node(&[7, 8, 9], &reversed, None) else { return };
    let choices_of_one = choices(&mut one);
    assert_eq!(choices_of_one, choices(&mut other));
    let mut counts: HashMap<&str, u8> = HashMap::new();
    for backend in choices_of_one.values() {
        *counts.entry(backend).or_default() += 1;
    }
    assert_eq!(counts.len(), ENDPOINTS.len(), "{counts:?}");
    // Of 200 packets each gets 40, give or take five standard deviations.
    assert!(counts.values().all(|count| (12..=68).contains(count)), "{counts:?}");
}

#[test]
fn hardly_anything_moves_but_what_must() {
    let Some(mut with) = node(&[9], &ENDPOINTS, None) else { return };
    let Some(mut without) = node(&[9], &ENDPOINTS[1..], None) else { return };
    let (with, without) = (choices(&mut with), choices(&mut without));
    let kept = with.iter().filter(|(_, backend)| *backend != "10.10.1.10:8080");
    let moved = kept.filter(|(sent, backend)| without[*sent] != **backend).count();
    assert!(moved <= 10, "{moved} of {CLIENTS}");
}

#[test]
fn under_affinity_a_client_has_one_backend_on_every_node() {
    let Some(mut one) = node(&[9], &ENDPOINTS, Some(60)) else { return };
    let Some(mut other) = node(&[8, 9], &ENDPOINTS, Some(60)) else { return };
    let to = |node: &mut Node, port: u16| {
        let sent = format!("192.0.2.1:{port} > 203.0.113.9:80 tcp S");
        let out = describe(&node.run(FROM_UPLINK, &frame(&sent)).1);
        out.split_once(" > ").expect("a packet").1.to_owned()
    };
    let first = to(&mut one, 1);
    assert!((2..20).all(|port| to(&mut other, port) == first), "{first}");
}

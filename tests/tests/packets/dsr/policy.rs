//! Source ranges and session affinity under direct server return.

use super::{Endpoints, NODE, PEER, ip, planned, service};
use crate::{
    frame::{describe, frame},
    node::{
        DEVICE, FROM_UPLINK, Node,
        Verdict::{Drop, Redirect},
    },
    tunnel::{describe_both, wrap},
};
use datapath_common::{Addr, FlowFlags, Outcome};
use datapath_user::{
    model::{Forwarding, Service, ServiceType},
    plan::Routing,
};
use std::collections::{BTreeMap, BTreeSet};

const PORT: u16 = 30_006;

/// `n1` with one Service at [`PORT`].
fn node(endpoints: Endpoints, change: impl FnOnce(&mut Service)) -> Option<Node> {
    let mut service = service(PORT, 6, None);
    change(&mut service);
    planned(Routing::Native, Forwarding::Dsr, DEVICE, [(service, endpoints)])
}

/// A load balancer's address for few sources.
fn ranged(service: &mut Service) {
    service.kind = ServiceType::LoadBalancer;
    service.load_balancer_vips = [ip("203.0.113.20"), ip("2001:db8:113::20")].into();
    service.source_ranges =
        ["192.0.2.0/28", "2001:db8::/64"].map(|range| range.parse().expect("a range")).into();
}

#[test]
fn source_ranges_are_checked_before_anything_is_passed_on() {
    let endpoints: Endpoints = &[("10.10.1.7", "n2"), ("fd00:10:10:1::7", "n2")];
    let Some(mut first) = node(endpoints, ranged) else { return };
    for (sent, admitted) in [
        ("192.0.2.9:40000 > 203.0.113.20:80 tcp S", true),
        ("192.0.2.9:40000 > 203.0.113.20:80 udp", true),
        ("[2001:db8::9]:40000 > [2001:db8:113::20]:80 tcp S", true),
        ("192.0.2.99:40000 > 203.0.113.20:80 tcp S", false),
        ("192.0.2.99:40000 > 203.0.113.20:80 udp", false),
        ("[2001:db8:1::9]:40000 > [2001:db8:113::20]:80 tcp S", false),
        // The ranges are the load balancer's alone.
        ("192.0.2.99:40000 > 172.18.0.3:30006 tcp S", true),
        ("192.0.2.99:40000 > 203.0.113.6:80 tcp S", true),
    ] {
        let refused = first.count(Outcome::DroppedSourceRange);
        let (verdict, out) = first.run(FROM_UPLINK, &frame(sent));
        assert_eq!(verdict, if admitted { Redirect } else { Drop }, "{sent}");
        assert_eq!(first.count(Outcome::DroppedSourceRange) == refused, admitted, "{sent}");
        if admitted {
            assert!(describe_both(&out).starts_with(&format!("{NODE} > {PEER} ")), "{sent}");
        }
    }
    assert_eq!(first.tunnel_stats(PEER).sent_packets, 5);
    assert_eq!(first.flows().len(), 5, "who may not come leaves no flow");
    // The other side of the same.
    let Some(mut second) = node(&[("10.10.3.5", "n1")], ranged) else { return };
    let sent = frame("192.0.2.9:40000 > 203.0.113.20:80 tcp S");
    let (verdict, out) = second.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &sent));
    let expected = "192.0.2.9:40000 > 10.10.3.5:8080 tcp S ttl=63";
    assert_eq!((verdict, describe(&out).as_str()), (Redirect, expected));
}

/// The backends of each client's flows, and whether these are passed on.
fn backends(node: &mut Node) -> BTreeMap<[u8; 16], BTreeSet<([u8; 16], bool)>> {
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (tuple, flow) in node.flows() {
        if flow.flags.has(FlowFlags::FORWARD) {
            let bytes = |addr: Addr| bytemuck::cast(addr);
            let backend = (bytes(flow.to.dst), flow.flags.has(FlowFlags::DSR));
            found.entry(bytes(tuple.src)).or_default().insert(backend);
        }
    }
    found
}

/// Many clients, and a few connections of each.
fn connections(to: &str) -> impl Iterator<Item = Vec<u8>> {
    (1..=40).flat_map(move |client| {
        (0..6).map(move |n| frame(&format!("192.0.2.{client}:{} > {to} tcp S", 40_000 + n)))
    })
}

fn sticky(service: &mut Service) {
    service.affinity = Some(10_800);
}

#[test]
fn a_client_stays_with_its_endpoint_wherever_that_is() {
    let endpoints: Endpoints =
        &[("10.10.3.5", "n1"), (NODE, "n1"), ("10.10.1.7", "n2"), ("10.10.1.8", "n2")];
    let Some(mut first) = node(endpoints, sticky) else { return };
    for sent in connections("172.18.0.3:30006") {
        first.run(FROM_UPLINK, &sent);
    }
    let found = backends(&mut first);
    assert_eq!(found.len(), 40);
    assert!(found.values().all(|of_client| of_client.len() == 1), "{found:?}");
    let all: BTreeSet<_> = found.into_values().flatten().collect();
    assert_eq!(all.iter().filter(|(_, passed_on)| *passed_on).count(), 2, "{all:?}");
    assert_eq!(all.len(), 4, "clients are spread over all: {all:?}");
    // What the other node has passed on stays with one of the endpoints here.
    let Some(mut second) = node(endpoints, sticky) else { return };
    for sent in connections("172.18.0.5:30006") {
        second.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &sent));
    }
    let found = backends(&mut second);
    assert_eq!(found.len(), 40);
    assert!(found.values().all(|of_client| of_client.len() == 1), "{found:?}");
    let all: BTreeSet<_> = found.into_values().flatten().collect();
    assert_eq!(all.len(), 2, "both of the endpoints here have clients: {all:?}");
}

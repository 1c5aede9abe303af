//! Changes of the agent's own Node, without a restart.

use super::{Fake, cluster, controller_with, node, service, slice, snapshot, started, tell};
use crate::{
    model::{Event, Kind, Node, ObjectName},
    plan::{LocalDetector, Settings},
};
use datapath_common::{Addr, Address, FrontendKind};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    sync::Arc,
};

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 1));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 9));

/// The addresses that serve node ports.
fn served(kernel: &Fake) -> BTreeSet<IpAddr> {
    let held = kernel.0.borrow();
    let addresses = held.tables.addresses.iter();
    let served = addresses.filter(|(_, address)| address.flags & Address::NODE_PORT != 0);
    served.map(|(addr, _)| addr.ip()).collect()
}

fn masquerade_address(kernel: &Fake) -> IpAddr {
    kernel.0.borrow().config.expect("a configuration").node_v4.ip()
}

/// How many endpoints the cluster address of the Service `a` has.
fn endpoints(kernel: &Fake) -> u32 {
    let held = kernel.0.borrow();
    let address = Addr::from(Ipv4Addr::new(10, 200, 1, 2));
    let mut frontends = held.tables.frontends.iter().filter(|(key, _)| key.port.0 != 0);
    let found = frontends
        .find(|(key, frontend)| key.addr == address && frontend.kind == FrontendKind::CLUSTER_IP);
    found.expect("a frontend").1.inside.count
}

#[test]
fn another_address_serves_node_ports_and_hides_clients() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    let mut two = (*snapshot()).clone();
    two.addresses.insert(SECOND, [2].into());
    controller.snapshot(Arc::new(two));
    assert!(controller.apply());
    assert_eq!((served(&kernel), masquerade_address(&kernel)), ([FIRST].into(), FIRST));
    let mut moved = node(1);
    moved.v4 = Some(Ipv4Addr::new(172, 18, 0, 9));
    tell(&mut controller, [Event::Node(moved)]);
    assert!(controller.apply());
    assert_eq!((served(&kernel), masquerade_address(&kernel)), ([SECOND].into(), SECOND));
}

#[test]
fn its_pod_ranges_count_at_once() {
    let kernel = Fake::default();
    let mut settings = Settings::new("n1");
    settings.local = LocalDetector::OwnNode;
    let mut controller = controller_with(&kernel, settings, None);
    tell(&mut controller, cluster());
    controller.snapshot(snapshot());
    assert!(controller.apply());
    let ranges = |kernel: &Fake| -> BTreeSet<String> {
        let held = kernel.0.borrow();
        held.tables.local_clients.iter().map(|key| key.addr.to_string()).collect()
    };
    assert_eq!(ranges(&kernel), ["10.10.1.0".to_owned()].into());
    let mut other = node(1);
    other.pod_cidrs =
        ["10.10.7.0/24", "fd00:7::/64"].map(|range| range.parse().expect("one")).into();
    tell(&mut controller, [Event::Node(other)]);
    assert!(controller.apply());
    assert_eq!(ranges(&kernel), ["10.10.7.0".to_owned(), "fd00:7::".to_owned()].into());
}

#[test]
fn its_zone_decides_about_endpoints() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    let mut hinted = slice("a", [10, 10, 2, 2]);
    let mut far = hinted.endpoints[0].clone();
    far.address = [10, 10, 3, 3].into();
    let mut near = hinted.endpoints[0].clone();
    (near.for_zones, far.for_zones) = ([Arc::from("z1")].into(), [Arc::from("z2")].into());
    hinted.endpoints = [near, far].into();
    tell(&mut controller, [Event::Slice(hinted)]);
    assert!(controller.apply());
    assert_eq!(endpoints(&kernel), 2, "a node without a zone");
    for (zone, expected) in [(Some("z1"), 1), (Some("elsewhere"), 2), (Some("z2"), 1), (None, 2)] {
        let zoned = Node { zone: zone.map(Arc::from), ..node(1) };
        tell(&mut controller, [Event::Node(zoned)]);
        assert!(controller.apply());
        assert_eq!(endpoints(&kernel), expected, "{zone:?}");
    }
}

#[test]
fn its_end_takes_it_from_load_balancers_only() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    let eligible = |leaving| Node { leaving, ..node(1) };
    for leaving in [false, true, false] {
        tell(&mut controller, [Event::Node(eligible(leaving))]);
        controller.apply();
        assert_eq!(controller.node().map(|node| node.leaving), Some(leaving));
    }
    let frontends = kernel.0.borrow().tables.frontends.clone();
    tell(&mut controller, [Event::Deleted(Kind::Node, ObjectName::cluster("n1"))]);
    assert!(controller.apply());
    assert!(controller.node().is_none());
    assert_eq!(kernel.0.borrow().tables.frontends, frontends, "traffic goes on");
    assert_eq!((served(&kernel), masquerade_address(&kernel)), ([FIRST].into(), FIRST));
}

#[test]
fn planning_everything_anew_changes_nothing() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    let (before, writes) = (kernel.0.borrow().tables.clone(), kernel.0.borrow().writes);
    controller.resync();
    assert!(controller.is_due() && controller.apply() && !controller.is_due());
    assert_eq!(kernel.0.borrow().tables, before);
    assert_eq!(kernel.0.borrow().writes, writes);
}

#[test]
fn what_a_service_cannot_have_is_told_once() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    assert_eq!(controller.take_notices(), []);
    let claim = |name: &str, last, created| {
        let mut service = service(name, [10, 200, 1, last]);
        service.external_ips = [[203, 0, 113, 1].into()].into();
        service.created = created;
        Event::Service(service)
    };
    let mut ours = service("c", [10, 200, 1, 12]);
    ours.ports[0].node_port = NonZeroU16::new(25_000);
    tell(&mut controller, [claim("old", 10, 1), claim("young", 11, 2), Event::Service(ours)]);
    assert!(controller.apply());
    let notices = controller.take_notices();
    let told: BTreeSet<_> =
        notices.iter().map(|one| (one.owner.to_string(), one.problem.reason())).collect();
    let expected = [("default/young", "AddressInUse"), ("default/c", "NodePortInMasqueradeRange")];
    let expected = expected.map(|(owner, reason)| (owner.to_owned(), reason));
    assert_eq!((told, notices.len()), (expected.into(), 2));
    let claimed = notices.iter().find(|one| one.problem.reason() == "AddressInUse");
    let text = claimed.expect("a notice").problem.to_string();
    assert!(text.contains("203.0.113.1 belongs to default/old"), "{text}");
    controller.resync();
    assert!(controller.apply());
    assert_eq!(controller.take_notices(), []);
}

//! Which endpoints a Service leads to.

use super::{endpoint, frontend, inside, ip, plan, service, slice, view, with};
use crate::model::{Event, TrafficPolicy};
use datapath_common::{BackendList, FrontendFlags, FrontendKey};
use std::collections::BTreeSet;

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

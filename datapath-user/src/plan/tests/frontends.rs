//! Which frontends a Service has, and what they do.

use super::{endpoint, frontend, ip, load_balancer, plan, plan_with, service, slice};
use crate::{
    model::{Event, ServiceType, TrafficPolicy},
    plan::{Settings, Tables},
};
use datapath_common::{FrontendFlags, SourceRangeKey};

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

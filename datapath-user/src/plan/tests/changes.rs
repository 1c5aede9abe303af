//! What becomes of tables when objects change, and over a restart.

use super::{endpoint, frontend, ip, load_balancer, name, port, service, slice, with};
use crate::{
    model::{Event, Model, TrafficPolicy},
    plan::{Planner, Settings, Tables},
};

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

//! Properties of the planner over random histories.

use super::{
    Change, Planner, Settings, Tables,
    tests::{endpoint, ip, name, own_node, port, service, slice, view},
};
use crate::model::{
    Algorithm, Event, Forwarding, HostPort, Kind, Model, Pod, Protocol, Service, ServiceType,
    Slice, TrafficPolicy,
};
use datapath_common::{FrontendFlags, SlotKey};
use proptest::prelude::*;

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

/// One of four Services, which share external addresses, node ports and sometimes a cluster address.
fn any_service() -> impl Strategy<Value = Service> {
    let addresses = (0..4_u8, 0..5_u8, any::<bool>(), 0..3_u8);
    let policies = (policy(), policy(), prop_oneof![Just(None), Just(Some(60_u32))]);
    let external = ((any::<[bool; 3]>(), 0..20_u8), 0..3_i64, any::<bool>());
    (addresses, policies, external).prop_map(|(addresses, policies, external)| {
        let (number, address, dual, node_port) = addresses;
        let v4 = format!("10.200.1.{address}");
        let v6 = format!("fd00:10:200:1::{address}");
        let ips = if dual { vec![&*v4, &*v6] } else { vec![&*v4] };
        let mut service = service(&format!("svc{number}"), &ips);
        (service.internal_policy, service.external_policy, service.affinity) = policies;
        let (([balanced, external_ip, ranges], algorithm), created, other) = external;
        service.kind = ServiceType::LoadBalancer;
        service.created = created;
        // Seldom: tables are large.
        service.algorithm = (algorithm == 0).then_some(Algorithm::Maglev);
        service.forwarding = (algorithm % 4 == 1).then_some(Forwarding::Dsr);
        service.ports[0].node_port = (node_port > 0).then(|| port(30000 + u16::from(node_port)));
        if balanced {
            service.load_balancer_vips = [ip("192.0.2.10"), ip("2001:db8::10")].into();
        }
        if external_ip {
            service.external_ips = [ip("203.0.113.250")].into();
        }
        if ranges {
            service.source_ranges = ["10.0.0.0/8".parse().expect("a range")].into();
        }
        service.proxy_name = other.then(|| "other".into());
        service
    })
}

/// One of six slices with up to four endpoints.
fn any_slice() -> impl Strategy<Value = Slice> {
    let any_endpoint = (0..6_u8, any::<bool>(), 1..4_u8, any::<[bool; 3]>(), 0..3_u8);
    (0..6_u8, 0..4_u8, prop::collection::vec(any_endpoint, 0..4)).prop_map(
        |(number, owner, endpoints)| {
            let endpoints: Vec<_> = endpoints
                .into_iter()
                .map(|(address, v6, node, [ready, serving, terminating], zone)| {
                    let family = if v6 { "fd00:10:10:1::" } else { "10.10.1." };
                    let mut endpoint = endpoint(&format!("{family}{address}"), node);
                    endpoint.conditions.ready = ready;
                    endpoint.conditions.serving = serving;
                    endpoint.conditions.terminating = terminating;
                    if zone > 0 {
                        endpoint.for_zones = [format!("z{zone}").into()].into();
                    }
                    endpoint
                })
                .collect();
            slice(&format!("slice{number}"), &format!("svc{owner}"), &endpoints)
        },
    )
}

/// One of four pods with host ports, some of which are node ports too.
fn any_pod() -> impl Strategy<Value = Pod> {
    let host_port = (prop_oneof![Just(None), Just(Some("127.0.0.1")), Just(Some("::"))], 1..4_u16);
    (0..4_u8, 0..3_i64, 1..5_u8, any::<bool>(), prop::collection::vec(host_port, 0..3)).prop_map(
        |(number, created, node, ended, ports)| {
            let mut pod = Pod::new(name(&format!("pod{number}")));
            pod.node = Some(if node == 4 { "n2" } else { "n1" }.into());
            (pod.created, pod.ended) = (created, ended);
            pod.addresses =
                [ip(&format!("10.10.1.{number}")), ip(&format!("fd00:10:10:1::{number}"))].into();
            let host_port = |(address, number): (Option<&str>, u16)| HostPort {
                address: address.map(ip),
                port: port(30000 + number),
                container_port: port(8080),
                protocol: Protocol::Tcp,
            };
            pod.host_ports = ports.into_iter().map(host_port).collect();
            pod
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any_service().prop_map(Event::Service),
        8 => any_slice().prop_map(Event::Slice),
        2 => (0..4_u8).prop_map(|n| Event::Deleted(Kind::Service, name(&format!("svc{n}")))),
        2 => (0..6_u8).prop_map(|n| Event::Deleted(Kind::Slice, name(&format!("slice{n}")))),
        3 => any_pod().prop_map(Event::Pod),
        1 => (0..4_u8).prop_map(|n| Event::Deleted(Kind::Pod, name(&format!("pod{n}")))),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(zone, address)| {
            let mut node = own_node();
            node.zone = zone.then(|| "z2".into());
            node.v4 = address.then(|| [10, 1, 1, 1].into());
            Event::Node(node)
        }),
    ]
}

/// Every frontend points to slots that are there, and these to backends that are there.
fn assert_whole(tables: &Tables) {
    for (key, frontend) in &tables.frontends {
        let maglev = frontend.flags.has(FrontendFlags::MAGLEV);
        for list in [frontend.inside, frontend.outside] {
            let whole = !maglev || list.count == 0 || tables.maglev.contains_key(&list.id);
            assert!(whole, "{key:?} has no table");
            for index in 0..list.count {
                let backend = tables.slots.get(&SlotKey { list: list.id, index });
                let backend = backend.unwrap_or_else(|| panic!("{key:?} points to no slot"));
                assert!(tables.backends.contains_key(backend), "{key:?} points to no backend");
            }
        }
    }
}

/// Applies a change as the maps' owner must, looking at every state on the way.
fn apply(tables: &mut Tables, change: &Change) {
    let Change { put, remove } = change;
    tables.services.extend(&put.services);
    tables.backends.extend(&put.backends);
    for (slot, backend) in &put.slots {
        assert!(tables.slots.insert(*slot, *backend).is_none(), "a list was written over");
    }
    tables.members.extend(&put.members);
    for (list, table) in &put.maglev {
        assert!(tables.maglev.insert(*list, table.clone()).is_none(), "a table was written over");
    }
    tables.source_ranges.extend(&put.source_ranges);
    tables.addresses.extend(&put.addresses);
    tables.routes.extend(&put.routes);
    tables.local_clients.extend(&put.local_clients);
    tables.local_devices.extend(&put.local_devices);
    tables.non_masquerade.extend(&put.non_masquerade);
    assert_whole(tables);
    for (key, frontend) in &put.frontends {
        tables.frontends.insert(*key, *frontend);
        assert_whole(tables);
    }
    remove.frontends.iter().for_each(|key| _ = tables.frontends.remove(key));
    remove.services.iter().for_each(|key| _ = tables.services.remove(key));
    remove.backends.iter().for_each(|key| _ = tables.backends.remove(key));
    remove.slots.iter().for_each(|key| _ = tables.slots.remove(key));
    remove.members.iter().for_each(|key| _ = tables.members.remove(key));
    remove.maglev.iter().for_each(|key| _ = tables.maglev.remove(key));
    remove.source_ranges.iter().for_each(|key| _ = tables.source_ranges.remove(key));
    remove.addresses.iter().for_each(|key| _ = tables.addresses.remove(key));
    remove.routes.iter().for_each(|key| _ = tables.routes.remove(key));
    remove.local_clients.iter().for_each(|key| _ = tables.local_clients.remove(key));
    remove.local_devices.iter().for_each(|key| _ = tables.local_devices.remove(key));
    remove.non_masquerade.iter().for_each(|key| _ = tables.non_masquerade.remove(key));
    assert_whole(tables);
}

fn planned_at_once(events: impl IntoIterator<Item = Event>) -> Tables {
    let mut model = Model::default();
    events.into_iter().for_each(|event| model.apply(event));
    let mut planner = Planner::new(Settings::new("n1"), &Tables::default());
    planner.update(&model, &model.clone_dirty());
    planner.tables()
}

/// The objects that are left after a history.
fn leftovers(events: &[Event]) -> Vec<Event> {
    let mut model = Model::default();
    events.iter().cloned().for_each(|event| model.apply(event));
    let services: Vec<_> = model.service_names().cloned().collect();
    let slices = (0..4).map(|n| name(&format!("svc{n}")));
    let slices = slices.flat_map(|owner| model.slices(&owner).cloned().collect::<Vec<_>>());
    services
        .iter()
        .filter_map(|name| model.service(name).cloned().map(Event::Service))
        .chain(slices.map(Event::Slice))
        .chain(model.pods().cloned().map(Event::Pod))
        .chain(model.nodes().cloned().map(Event::Node))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_equals_at_once(
        events in prop::collection::vec(any_event(), 1..60),
        batch in 1..6_usize,
    ) {
        let mut model = Model::default();
        let mut planner = Planner::new(Settings::new("n1"), &Tables::default());
        let mut tables = Tables::default();
        for events in events.chunks(batch) {
            events.iter().cloned().for_each(|event| model.apply(event));
            let dirty = model.take_dirty();
            apply(&mut tables, &planner.update(&model, &dirty));
            prop_assert_eq!(&tables, &planner.tables());
        }
        prop_assert_eq!(view(&tables), view(&planned_at_once(leftovers(&events))));
    }

    #[test]
    fn order_does_not_matter(
        (events, shuffled) in prop::collection::vec(any_event(), 1..60)
            .prop_map(|events| leftovers(&events))
            .prop_flat_map(|left| (Just(left.clone()), Just(left).prop_shuffle()))
    ) {
        prop_assert_eq!(view(&planned_at_once(events)), view(&planned_at_once(shuffled)));
    }

    #[test]
    fn a_restart_changes_only_what_changed(
        before in prop::collection::vec(any_event(), 1..40),
        after in prop::collection::vec(any_event(), 0..10),
    ) {
        let mut maps = planned_at_once(before.clone());
        let mut model = Model::default();
        before.into_iter().chain(after.clone()).for_each(|event| model.apply(event));
        let mut planner = Planner::new(Settings::new("n1"), &maps);
        planner.update(&model, &model.clone_dirty());
        planner.settle();
        let change = Change::between(&maps, &planner.tables());
        if after.is_empty() {
            // Two lists of one service port with the same contents may change places.
            let mut others = change.clone();
            others.put.frontends.clear();
            prop_assert!(others.is_empty(), "{:?}", change);
        }
        apply(&mut maps, &change);
        prop_assert_eq!(maps, planner.tables());
    }
}

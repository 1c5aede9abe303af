//! Which addresses lead to which pod.

use crate::{
    model::{Event, HostPort, Kind, Model, Pod, Protocol, ServiceType},
    plan::{
        Owner, Planner, Settings, Tables,
        tests::{ip, name, network, own_node, port, service, view},
    },
};
use datapath_common::{FrontendFlags, FrontendKind};

/// A pod of `n1` with one host port, 8080/TCP to 80.
fn pod(number: u8, host_ip: Option<&str>) -> Pod {
    let mut pod = Pod::new(name(&format!("pod{number}")));
    pod.node = Some("n1".into());
    pod.created = i64::from(number);
    pod.addresses = [ip(&format!("10.10.1.{number}")), ip(&format!("fd00::{number}"))].into();
    pod.host_ports = [HostPort {
        address: host_ip.map(ip),
        port: port(8080),
        container_port: port(80),
        protocol: Protocol::Tcp,
    }]
    .into();
    pod
}

/// A node `n1` whose objects change.
struct Node {
    model: Model,
    planner: Planner,
}

impl Node {
    fn new() -> Self {
        let mut model = Model::default();
        model.apply(Event::Node(own_node()));
        let mut planner = Planner::new(Settings::new("n1"), &Tables::default());
        planner.update_network(&model, network());
        planner.update(&model, &model.clone_dirty());
        planner.settle();
        Self { model, planner }
    }

    fn tell(&mut self, event: Event) {
        self.model.apply(event);
        let dirty = self.model.take_dirty();
        self.planner.update(&self.model, &dirty);
    }

    /// The frontends at port 8080 with their backends, in order.
    fn served(&self) -> Vec<String> {
        let frontends = view(&self.planner.tables()).frontends;
        let served = frontends.iter().filter(|(key, _)| key.contains(" 8080/"));
        served.map(|(key, seen)| format!("{key} {}", seen.inside.join(","))).collect()
    }
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn a_host_port_is_served_where_it_asks_for() {
    let everywhere_v4 = [
        "10.10.1.1 8080/TCP 10.10.1.5:80",
        "127.0.0.1 8080/TCP 10.10.1.5:80",
        "172.18.0.2 8080/TCP 10.10.1.5:80",
    ];
    let everywhere_v6 = ["::1 8080/TCP fd00::5:80", "fc00:f853::2 8080/TCP fd00::5:80"];
    let everywhere: Vec<_> = everywhere_v4.into_iter().chain(everywhere_v6).collect();
    for (host_ip, mut expected) in [
        (None, everywhere),
        (Some("0.0.0.0"), everywhere_v4.to_vec()),
        (Some("::"), everywhere_v6.to_vec()),
        (Some("127.0.0.1"), vec![everywhere_v4[1]]),
        (Some("172.18.0.2"), vec![everywhere_v4[2]]),
        (Some("::1"), vec![everywhere_v6[0]]),
        (Some("192.0.2.1"), vec![]),
    ] {
        let mut node = Node::new();
        node.tell(Event::Pod(pod(5, host_ip)));
        expected.sort_unstable();
        assert_eq!(node.served(), lines(&expected), "{host_ip:?}");
        for seen in view(&node.planner.tables()).frontends.values() {
            assert_eq!(
                (seen.kind, seen.flags),
                (FrontendKind::HOST_PORT, FrontendFlags::default())
            );
        }
    }
}

#[test]
fn pods_without_host_ports_here_have_nothing() {
    let ended = Pod { ended: true, ..pod(5, None) };
    let elsewhere = Pod { node: Some("n2".into()), ..pod(5, None) };
    let not_set_up = Pod { addresses: Box::default(), ..pod(5, None) };
    for pod in [ended, elsewhere, not_set_up] {
        let mut node = Node::new();
        node.tell(Event::Pod(pod));
        assert!(node.served().is_empty());
        assert!(node.planner.tables().services.is_empty());
    }
}

#[test]
fn a_host_port_ends_with_its_pod_and_follows_the_addresses() {
    let mut node = Node::new();
    node.tell(Event::Pod(pod(5, Some("172.18.0.9"))));
    assert!(node.served().is_empty());
    let mut network = network();
    network.host_addresses.insert(ip("172.18.0.9"));
    node.planner.update_network(&node.model, network);
    assert_eq!(node.served(), ["172.18.0.9 8080/TCP 10.10.1.5:80"]);
    let leaving = Pod { deleting: true, ..pod(5, Some("172.18.0.9")) };
    node.tell(Event::Pod(leaving));
    assert_eq!(node.served().len(), 1, "a pod that is being deleted may still be at work");
    node.tell(Event::Deleted(Kind::Pod, name("pod5")));
    let tables = node.planner.tables();
    assert!(tables.frontends.is_empty() && tables.services.is_empty());
    assert!(tables.backends.is_empty() && tables.slots.is_empty());
}

#[test]
fn the_older_of_two_pods_has_the_port() {
    let mut node = Node::new();
    node.tell(Event::Pod(pod(6, None)));
    node.tell(Event::Pod(pod(5, Some("172.18.0.2"))));
    let has = |node: &Node, line: &str| node.served().iter().any(|served| served == line);
    assert!(has(&node, "172.18.0.2 8080/TCP 10.10.1.5:80"), "{:?}", node.served());
    assert!(has(&node, "127.0.0.1 8080/TCP 10.10.1.6:80"));
    node.tell(Event::Deleted(Kind::Pod, name("pod5")));
    assert!(has(&node, "172.18.0.2 8080/TCP 10.10.1.6:80"), "{:?}", node.served());
}

#[test]
fn a_service_comes_before_a_host_port() {
    let mut node_port = service("a", &["10.200.1.1"]);
    node_port.kind = ServiceType::NodePort;
    node_port.ports[0].node_port = Some(port(8080));
    let mut external = service("a", &["10.200.1.1"]);
    external.external_ips = [ip("172.18.0.2")].into();
    external.ports[0].port = port(8080);
    for (service, expected) in [
        // Node ports answer on the primary addresses, and on loopback ones.
        (node_port, ["0.0.0.0 8080/TCP ", "10.10.1.1 8080/TCP 10.10.1.5:80"].as_slice()),
        (
            external,
            &[
                "10.10.1.1 8080/TCP 10.10.1.5:80",
                "10.200.1.1 8080/TCP ",
                "127.0.0.1 8080/TCP 10.10.1.5:80",
                "172.18.0.2 8080/TCP ",
            ],
        ),
    ] {
        let pod = Event::Pod(pod(5, Some("0.0.0.0")));
        let service = Event::Service(service);
        for events in [[pod.clone(), service.clone()], [service, pod]] {
            let mut node = Node::new();
            for event in events {
                node.tell(event);
            }
            assert_eq!(node.served(), lines(expected));
            node.tell(Event::Deleted(Kind::Service, name("a")));
            assert_eq!(node.served().len(), 3, "the host port is back");
        }
    }
}

/// Which pods were told what.
fn told(node: &mut Node) -> Vec<String> {
    let notices = node.planner.take_notices().into_iter();
    let of_pods = notices.filter(|one| matches!(one.owner, Owner::Pod(_)));
    of_pods.map(|one| format!("{}: {}", one.owner, one.problem)).collect()
}

#[test]
fn a_pod_is_told_once_that_another_has_its_port() {
    let older = Event::Pod(pod(5, Some("0.0.0.0")));
    let younger = Event::Pod(pod(6, Some("0.0.0.0")));
    for events in [[older.clone(), younger.clone()], [younger.clone(), older]] {
        let mut node = Node::new();
        for event in events {
            node.tell(event);
        }
        let all = "10.10.1.1, 127.0.0.1, 172.18.0.2";
        let [told] = <[String; 1]>::try_from(told(&mut node)).expect("one notice");
        let start = format!("pod ns/pod6: TCP port 8080 of {all} belongs to pod ns/pod5: ");
        assert!(told.starts_with(&start), "{told}");
    }
    let mut node = Node::new();
    node.tell(younger);
    assert!(told(&mut node).is_empty(), "alone");
}

#[test]
fn a_pod_is_told_that_a_service_has_its_port() {
    let mut node_port = service("a", &["10.200.1.1"]);
    node_port.kind = ServiceType::NodePort;
    node_port.ports[0].node_port = Some(port(8080));
    let mut external = service("a", &["10.200.1.1"]);
    external.external_ips = [ip("172.18.0.2")].into();
    external.ports[0].port = port(8080);
    for (service, addresses) in [(node_port, "127.0.0.1, 172.18.0.2"), (external, "172.18.0.2")] {
        let pod = Event::Pod(pod(5, Some("0.0.0.0")));
        let service = Event::Service(service);
        for events in [[pod.clone(), service.clone()], [service, pod]] {
            let mut node = Node::new();
            for event in events {
                node.tell(event);
            }
            let [told] = <[String; 1]>::try_from(told(&mut node)).expect("one notice");
            let start = format!("pod ns/pod5: TCP port 8080 of {addresses} belongs to ns/a: ");
            assert!(told.starts_with(&start), "{told}");
        }
    }
}

#[test]
fn protocols_and_addresses_make_different_ports() {
    let mut pod = pod(5, Some("127.0.0.1"));
    let mut ports = pod.host_ports.to_vec();
    ports.push(HostPort { protocol: Protocol::Udp, container_port: port(53), ..ports[0] });
    ports.push(HostPort { address: Some(ip("172.18.0.2")), container_port: port(81), ..ports[0] });
    pod.host_ports = ports.into();
    let mut node = Node::new();
    node.tell(Event::Pod(pod));
    let expected = [
        "127.0.0.1 8080/TCP 10.10.1.5:80",
        "127.0.0.1 8080/UDP 10.10.1.5:53",
        "172.18.0.2 8080/TCP 10.10.1.5:81",
    ];
    assert_eq!(node.served(), lines(&expected));
    let labels: Vec<_> = view(&node.planner.tables()).services.into_iter().collect();
    let expected = [
        "pod ns/pod5:127.0.0.1:8080/TCP",
        "pod ns/pod5:127.0.0.1:8080/UDP",
        "pod ns/pod5:172.18.0.2:8080/TCP",
    ];
    assert_eq!(labels, lines(&expected));
    let before = node.planner.tables();
    let mut again = Planner::new(Settings::new("n1"), &before);
    let mut model = Model::default();
    model.apply(Event::Node(own_node()));
    node.model.pods().for_each(|pod| model.apply(Event::Pod(pod.clone())));
    again.update_network(&model, network());
    again.update(&model, &model.clone_dirty());
    again.settle();
    assert_eq!(again.tables(), before, "numbers survive a restart");
}

//! The controller over a kernel made of tables.

mod node;

use super::{Controller, Kernel, KernelSettings};
use crate::{
    datapath::{
        Device, Error, MapFill, Repairs, SweepReport,
        devices::{KernelRoute, Snapshot},
    },
    health::Telemetry,
    k8s::{News, SavedServers},
    model::{
        Endpoint, Event, HostPort, Kind, Node, ObjectName, Pod, Protocol, Service, ServicePort,
        Slice, SlicePort,
    },
    plan::{Change, KernelRoutes, Settings, Tables},
};
use datapath_common::{Config, ConfigFlags, FrontendKind, Outcome, RouteKind, ServiceStats};
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    num::NonZeroU16,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

/// What a kernel holds.
#[derive(Default)]
struct Held {
    tables: Tables,
    config: Option<Config>,
    pods: BTreeSet<String>,
    uplinks: BTreeSet<String>,
    sockets: bool,
    /// Whether writes fail.
    broken: bool,
    writes: usize,
}

/// A kernel that outlives its controller, as the real one does.
#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Held>>);

fn failure() -> Error {
    Error::NotCgroup2(PathBuf::new())
}

impl Kernel for Fake {
    fn dump(&self) -> Result<Tables, Error> {
        Ok(self.0.borrow().tables.clone())
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        let mut held = self.0.borrow_mut();
        if held.broken {
            return Err(failure());
        }
        held.writes += 1;
        let Change { put, remove } = change;
        let tables = &mut held.tables;
        tables.services.extend(&put.services);
        tables.backends.extend(&put.backends);
        tables.slots.extend(&put.slots);
        tables.frontends.extend(&put.frontends);
        tables.addresses.extend(&put.addresses);
        tables.routes.extend(&put.routes);
        tables.local_clients.extend(&put.local_clients);
        tables.local_devices.extend(&put.local_devices);
        tables.non_masquerade.extend(&put.non_masquerade);
        tables.services.retain(|key, _| !remove.services.contains(key));
        tables.backends.retain(|key, _| !remove.backends.contains(key));
        tables.slots.retain(|key, _| !remove.slots.contains(key));
        tables.frontends.retain(|key, _| !remove.frontends.contains(key));
        tables.addresses.retain(|key, _| !remove.addresses.contains(key));
        tables.routes.retain(|key, _| !remove.routes.contains(key));
        tables.local_clients.retain(|key| !remove.local_clients.contains(key));
        tables.local_devices.retain(|key| !remove.local_devices.contains(key));
        tables.non_masquerade.retain(|key| !remove.non_masquerade.contains(key));
        Ok(())
    }

    fn set_routes(&mut self, _: &KernelRoutes) -> Result<usize, Error> {
        Ok(0)
    }

    fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        self.0.borrow_mut().config = Some(*config);
        Ok(())
    }

    fn attach_pod(&mut self, device: &Device) -> Result<(), Error> {
        self.0.borrow_mut().pods.insert(device.name.clone());
        Ok(())
    }

    fn attach_uplink(&mut self, device: &Device) -> Result<(), Error> {
        self.0.borrow_mut().uplinks.insert(device.name.clone());
        Ok(())
    }

    fn attach_loopback(&mut self, _uplink: &str) -> Result<(), Error> {
        Ok(())
    }

    fn attach_sockets(&mut self) -> Result<PathBuf, Error> {
        self.0.borrow_mut().sockets = true;
        Ok(PathBuf::new())
    }

    fn detach_sockets(&mut self) -> Result<(), Error> {
        self.0.borrow_mut().sockets = false;
        Ok(())
    }

    fn detach_others(&mut self, _keep: &[u32]) -> Result<usize, Error> {
        Ok(0)
    }

    fn sweep(&mut self) -> Result<SweepReport, Error> {
        Ok(SweepReport::default())
    }

    fn ensure(&mut self) -> Result<Repairs, Error> {
        Ok(Repairs::default())
    }

    fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        Ok(vec![(Outcome::Passed, 1)])
    }

    fn service_stats(&self) -> Result<HashMap<u32, ServiceStats>, Error> {
        let ids = self.0.borrow().tables.services.keys().copied().collect::<Vec<_>>();
        Ok(ids.into_iter().map(|id| (id, ServiceStats::default())).collect())
    }

    fn map_fill(&self) -> Result<Vec<MapFill>, Error> {
        Ok(Vec::new())
    }

    fn xdp(&self) -> Vec<(String, &'static str)> {
        Vec::new()
    }
}

fn controller(kernel: &Fake, saved: Option<SavedServers>) -> Controller<Fake> {
    controller_with(kernel, Settings::new("n1"), saved)
}

fn controller_with(kernel: &Fake, plan: Settings, saved: Option<SavedServers>) -> Controller<Fake> {
    let settings = KernelSettings {
        devices: vec!["eth0".to_owned()],
        socket_lb: true,
        ..KernelSettings::default()
    };
    let telemetry = Arc::new(Telemetry::default());
    Controller::new(kernel.clone(), settings, plan, telemetry, saved).expect("a controller")
}

fn service(name: &str, address: [u8; 4]) -> Service {
    let mut service = Service::new(ObjectName::namespaced("default", name));
    service.cluster_ips = [address.into()].into();
    service.ports = [ServicePort {
        name: "https".into(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::MIN,
        node_port: None,
    }]
    .into();
    service
}

fn slice(service: &str, address: [u8; 4]) -> Slice {
    let port = NonZeroU16::new(6443).expect("a port");
    Slice {
        name: ObjectName::namespaced("default", &format!("{service}-1")),
        service: ObjectName::namespaced("default", service),
        ports: [SlicePort { name: "https".into(), protocol: Protocol::Tcp, port }].into(),
        endpoints: [Endpoint::new(address.into())].into(),
        trigger_time: None,
    }
}

fn node(number: u8) -> Node {
    let mut node = Node::new(&format!("n{number}"));
    node.v4 = Some([172, 18, 0, number].into());
    node.pod_cidrs = [format!("10.10.{number}.0/24").parse().expect("a range")].into();
    node
}

fn tell(controller: &mut Controller<Fake>, events: impl IntoIterator<Item = Event>) {
    for event in events {
        controller.news(News::Event(event));
    }
}

fn listed(kind: Kind, names: &[&str]) -> Event {
    let name = |name: &&str| match kind {
        Kind::Node | Kind::ServiceCidr => ObjectName::cluster(name),
        Kind::Service | Kind::Slice | Kind::Pod => ObjectName::namespaced("default", name),
    };
    Event::Listed(kind, names.iter().map(name).collect::<HashSet<_>>())
}

/// A cluster of two nodes and two Services, completely listed.
fn cluster() -> Vec<Event> {
    vec![
        Event::Service(service("kubernetes", [10, 200, 1, 1])),
        Event::Service(service("a", [10, 200, 1, 2])),
        Event::Slice(slice("kubernetes", [172, 18, 0, 2])),
        Event::Slice(slice("a", [10, 10, 2, 2])),
        Event::Node(node(1)),
        Event::Node(node(2)),
        listed(Kind::Service, &["kubernetes", "a"]),
        listed(Kind::Slice, &["kubernetes-1", "a-1"]),
        listed(Kind::Node, &["n1", "n2"]),
    ]
}

/// A node whose uplink is `eth0`, with a route to the pods of `n2`.
fn snapshot() -> Arc<Snapshot> {
    let device = Device {
        index: 2,
        name: "eth0".to_owned(),
        mac: [2; 6],
        mtu: 1500,
        pair: false,
        peer_elsewhere: false,
        loopback: false,
        bridge: None,
        up: true,
    };
    Arc::new(Snapshot {
        devices: [(2, device)].into(),
        addresses: [(IpAddr::from([172, 18, 0, 1]), [2].into())].into(),
        prefix_lengths: [(IpAddr::from([172, 18, 0, 1]), 16)].into(),
        routes: vec![KernelRoute {
            prefix: "10.10.2.0/24".parse().expect("a range"),
            gateway: Some([172, 18, 0, 2].into()),
            device: 2,
            metric: 0,
        }],
        neighbours: [].into(),
    })
}

fn started(kernel: &Fake) -> Controller<Fake> {
    let mut controller = controller(kernel, None);
    tell(&mut controller, cluster());
    controller.snapshot(snapshot());
    assert!(controller.is_due() && controller.apply());
    controller
}

#[test]
fn a_complete_cluster_reaches_the_kernel() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    controller.set_up_sockets();
    let held = kernel.0.borrow();
    assert_eq!(held.tables.services.len(), 2);
    assert!(held.tables.routes.values().any(|route| route.kind == RouteKind::REMOTE));
    assert!(held.sockets && held.uplinks.contains("eth0"));
    let config = held.config.expect("a configuration");
    assert!(config.flags.has(ConfigFlags::NATIVE_ROUTING.with(ConfigFlags::LOCAL_DETECTOR)));
    assert_eq!((config.uplink, config.node_v4.ip()), (2, IpAddr::from([172, 18, 0, 1])));
    drop(held);
    assert!(!controller.is_due());
    assert_eq!(controller.numbers().expect("numbers").services.len(), 2);
}

#[test]
fn nothing_is_removed_before_everything_is_listed() {
    let kernel = Fake::default();
    drop(started(&kernel));
    let before = kernel.0.borrow().tables.clone();
    let mut controller = controller(&kernel, None);
    controller.snapshot(snapshot());
    let mut events = cluster();
    events.retain(|event| !matches!(event, Event::Service(service) if service.name.name() == "a"));
    events[5..].rotate_left(1);
    for event in events {
        assert!(controller.apply());
        let held = kernel.0.borrow();
        assert_eq!(held.tables.services, before.services);
        assert_eq!(held.tables.frontends, before.frontends);
        drop(held);
        controller.news(News::Event(event));
    }
    assert!(controller.apply());
    let held = kernel.0.borrow();
    assert_eq!(held.tables.services.len(), 1, "what was deleted meanwhile is gone");
    let kept = held.tables.services.iter().next().expect("a service");
    assert_eq!(before.services.get(kept.0), Some(kept.1), "ids are stable");
}

#[test]
fn host_ports_of_a_run_before_stay_until_pods_are_known() {
    let kernel = Fake::default();
    let port = NonZeroU16::new(8080).expect("a port");
    let mut pod = Pod::new(ObjectName::namespaced("default", "p"));
    pod.node = Some("n1".into());
    pod.addresses = [[10, 10, 1, 5].into()].into();
    pod.host_ports =
        [HostPort { address: None, port, container_port: port, protocol: Protocol::Tcp }].into();
    let served = || {
        let held = kernel.0.borrow();
        held.tables.frontends.values().filter(|f| f.kind == FrontendKind::HOST_PORT).count()
    };
    let mut first = started(&kernel);
    tell(&mut first, [Event::Pod(pod.clone())]);
    assert!(first.apply());
    assert_eq!(served(), 2, "the node's address and the loopback one");
    let pods = [Event::Pod(pod), listed(Kind::Pod, &["p"])].map(News::Event);
    for (news, expected) in [(pods.to_vec(), 2), (vec![News::Unavailable(Kind::Pod)], 0)] {
        let mut again = controller(&kernel, None);
        tell(&mut again, cluster());
        again.snapshot(snapshot());
        assert!(again.apply());
        assert_eq!(served(), 2, "not yet told of any pod");
        for news in news {
            again.news(news);
        }
        assert!(again.apply());
        assert_eq!(served(), expected);
    }
}

#[test]
fn pods_of_a_node_that_works_do_not_wait_for_the_cluster() {
    let kernel = Fake::default();
    drop(started(&kernel));
    kernel.0.borrow_mut().uplinks.clear();
    let mut restarted = controller(&kernel, None);
    restarted.snapshot(snapshot());
    assert!(restarted.apply());
    assert!(kernel.0.borrow().uplinks.contains("eth0"));
    let fresh = Fake::default();
    let mut first = controller(&fresh, None);
    first.snapshot(snapshot());
    assert!(first.apply());
    assert!(fresh.0.borrow().uplinks.is_empty(), "nothing to serve yet");
}

#[test]
fn an_audit_makes_good_what_somebody_did() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    let whole = kernel.0.borrow().tables.clone();
    kernel.0.borrow_mut().tables.frontends.clear();
    kernel
        .0
        .borrow_mut()
        .tables
        .backends
        .insert(4711, *whole.backends.values().next().expect("one"));
    assert!(!controller.is_due());
    controller.audit();
    assert!(controller.is_due() && controller.apply());
    assert_eq!(kernel.0.borrow().tables, whole);
}

#[test]
fn a_write_that_fails_is_made_good() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    kernel.0.borrow_mut().broken = true;
    tell(&mut controller, [Event::Service(service("b", [10, 200, 1, 3]))]);
    assert!(!controller.apply());
    assert!(controller.is_due());
    kernel.0.borrow_mut().broken = false;
    assert!(controller.apply() && !controller.is_due());
    assert_eq!(kernel.0.borrow().tables.services.len(), 3);
}

#[test]
fn a_change_of_one_service_is_one_write() {
    let kernel = Fake::default();
    let mut controller = started(&kernel);
    let before = kernel.0.borrow().writes;
    tell(&mut controller, [Event::Slice(slice("a", [10, 10, 2, 3]))]);
    assert!(controller.apply());
    assert_eq!(kernel.0.borrow().writes, before + 1);
}

#[test]
fn the_ways_to_the_api_server_are_remembered() {
    let folder = tempfile::tempdir().expect("a folder");
    let saved = SavedServers::new(folder.path());
    let mut controller = controller(&Fake::default(), Some(saved.clone()));
    tell(&mut controller, cluster());
    assert!(controller.apply());
    assert_eq!(saved.load(), ["https://172.18.0.2:6443"]);
}

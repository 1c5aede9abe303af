//! A history as the product's own code sees it, up to the tables.

use super::{HERE, SERVED, Shape, own};
use datapath_user::{
    k8s,
    model::{Event, Kind, Model, ObjectName},
    plan::{LocalDetector, Network, Planner, PodAddress, Settings, Tables, Uplink},
};
use lab::{
    semantics::{
        facts::{Cluster, Name, Node, Object, Service, Slice, Step},
        history::{PODS, beginning},
    },
    topology::POD_RANGES,
};

/// A planner at work.
pub(super) struct Planned {
    /// What it has been told, as plain facts.
    pub(super) cluster: Cluster,
    /// What the maps should hold.
    pub(super) tables: Tables,
    model: Model,
    planner: Planner,
}

impl Planned {
    /// A planner that knows the beginning of all histories.
    pub(super) fn new(shape: Shape) -> Self {
        let mut planned = Self::empty(shape);
        let objects = beginning().objects().into_iter().map(Step::Put);
        planned.take(&objects.collect::<Vec<_>>());
        planned
    }

    /// A planner that knows no object yet.
    pub(super) fn empty(shape: Shape) -> Self {
        let mut settings = Settings::new(HERE.name);
        settings.routing = shape.routing;
        let ranges = POD_RANGES.map(|range| range.parse().expect("a range"));
        settings.local = LocalDetector::Ranges(ranges.to_vec());
        settings.masquerade_all = shape.masquerade_all;
        if shape.ranges {
            settings.node_port_addresses = SERVED.join(",").parse().expect("ranges");
        }
        let mut planned = Self {
            cluster: Cluster::default(),
            tables: Tables::default(),
            model: Model::default(),
            planner: Planner::new(settings, &Tables::default()),
        };
        planned.planner.update_network(&planned.model, network());
        planned
    }

    /// Takes a batch of steps at once.
    pub(super) fn take(&mut self, steps: &[Step]) {
        for step in steps {
            self.cluster.take(step);
            for event in events(step) {
                self.model.apply(event);
            }
        }
        let dirty = self.model.take_dirty();
        self.planner.update(&self.model, &dirty);
        self.tables = self.planner.tables();
    }

    /// Whether pods are routed by us.
    pub(super) fn carries_pods(&self) -> bool {
        self.planner.carries_pods()
    }
}

/// A step as the watch of the API server would report it.
fn events(step: &Step) -> Vec<Event> {
    match step {
        Step::Put(object) => {
            let events = k8s::parse_json(&object.json().to_string()).expect("an object");
            match object {
                // A slice that is none of a proxy's takes the place of one that was.
                Object::Slice(_) if events.is_empty() => vec![deleted(&object.name())],
                _ => events,
            }
        }
        Step::Delete(name) => vec![deleted(name)],
    }
}

fn deleted(Name { kind, name }: &Name) -> Event {
    let namespaced = || ObjectName::namespaced("default", name);
    match *kind {
        Service::KIND => Event::Deleted(Kind::Service, namespaced()),
        Slice::KIND => Event::Deleted(Kind::Slice, namespaced()),
        Node::KIND => Event::Deleted(Kind::Node, ObjectName::cluster(name)),
        _ => Event::Deleted(Kind::ServiceCidr, ObjectName::cluster(name)),
    }
}

/// The network of the node under test. Test runs take place on the loopback device.
fn network() -> Network {
    const DEVICE: u32 = crate::node::DEVICE;
    let pods = PODS.into_iter().flat_map(|index| {
        let addresses = HERE.pod(index).both().into_iter().zip(HERE.pod(1).both());
        addresses.map(|(ip, gateway)| {
            (ip, PodAddress { device: DEVICE, mac: [0; 6], gateway: Some(gateway) })
        })
    });
    Network {
        uplinks: vec![Uplink { device: DEVICE, mtu: 1500, mac: [2, 0, 0, 0, 0, 3] }],
        uplink_addresses: HERE.address().both().map(ipnet::IpNet::from).to_vec(),
        pods: pods.collect(),
        host_addresses: own().into(),
        ..Network::default()
    }
}

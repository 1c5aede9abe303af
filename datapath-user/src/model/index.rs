//! The index of objects.

use super::{Forwarding, Node, ObjectName, Pod, Service, ServiceCidr, Slice};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::SystemTime,
};

/// Kinds of objects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Service.
    Service,
    /// EndpointSlice.
    Slice,
    /// Node.
    Node,
    /// ServiceCIDR.
    ServiceCidr,
    /// Pod, of this node.
    Pod,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Service, Self::Slice, Self::Node, Self::ServiceCidr, Self::Pod];
}

/// News of the cluster.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A Service is, or has become, this.
    Service(Service),
    /// An EndpointSlice is, or has become, this.
    Slice(Slice),
    /// A Node is, or has become, this.
    Node(Node),
    /// A ServiceCIDR is, or has become, this.
    ServiceCidr(ServiceCidr),
    /// A Pod is, or has become, this.
    Pod(Pod),
    /// An object is gone.
    Deleted(Kind, ObjectName),
    /// These are all the objects of a kind that there are.
    Listed(Kind, HashSet<ObjectName>),
}

/// What has changed since somebody last asked.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dirty {
    /// Services of which the object or an endpoint has changed.
    pub services: BTreeSet<ObjectName>,
    /// A Node has changed.
    pub nodes: bool,
    /// A ServiceCIDR has changed.
    pub service_cidrs: bool,
    /// Pods that have changed.
    pub pods: BTreeSet<ObjectName>,
    /// Number of changes of Services.
    pub service_changes: u64,
    /// Number of changes of EndpointSlices.
    pub slice_changes: u64,
    /// When what led to the changes of slices happened.
    pub trigger_times: Vec<SystemTime>,
}

impl Dirty {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.pods.is_empty() && !self.nodes && !self.service_cidrs
    }
}

/// All objects that are known.
#[derive(Debug, Default)]
pub struct Model {
    services: HashMap<ObjectName, Service>,
    /// Slices by Service, then by name: the order decides between two slices with one endpoint.
    slices: HashMap<ObjectName, BTreeMap<ObjectName, Slice>>,
    /// The Service under which a slice stands in `slices`.
    owners: HashMap<ObjectName, ObjectName>,
    nodes: BTreeMap<ObjectName, Node>,
    service_cidrs: BTreeMap<ObjectName, ServiceCidr>,
    pods: BTreeMap<ObjectName, Pod>,
    /// Services that want direct server return by themselves.
    direct: HashSet<ObjectName>,
    listed: HashSet<Kind>,
    dirty: Dirty,
}

impl Model {
    /// Takes in one piece of news.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Service(service) => self.put_service(service),
            Event::Slice(slice) => self.put_slice(slice),
            Event::Node(node) => {
                let name = node.name.clone();
                if self.nodes.get(&name) != Some(&node) {
                    self.nodes.insert(name, node);
                    self.dirty.nodes = true;
                }
            }
            Event::ServiceCidr(cidr) => {
                let name = cidr.name.clone();
                if self.service_cidrs.get(&name) != Some(&cidr) {
                    self.service_cidrs.insert(name, cidr);
                    self.dirty.service_cidrs = true;
                }
            }
            Event::Pod(pod) => {
                if self.pods.get(&pod.name) != Some(&pod) {
                    self.dirty.pods.insert(pod.name.clone());
                    self.pods.insert(pod.name.clone(), pod);
                }
            }
            Event::Deleted(kind, name) => self.delete(kind, &name),
            Event::Listed(kind, names) => {
                let stale: Vec<_> =
                    self.names(kind).filter(|name| !names.contains(name)).cloned().collect();
                for name in stale {
                    self.delete(kind, &name);
                }
                self.listed.insert(kind);
            }
        }
    }

    /// What has changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Whether something has changed since the last [`Self::take_dirty`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Changes of Services and of slices since the last [`Self::take_dirty`].
    pub fn pending(&self) -> (u64, u64) {
        (self.dirty.service_changes, self.dirty.slice_changes)
    }

    /// What has changed, without taking note that somebody asked.
    #[cfg(test)]
    pub(crate) fn clone_dirty(&self) -> Dirty {
        self.dirty.clone()
    }

    /// Whether a kind has been listed in full at least once.
    pub fn is_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// Whether a Service asks for direct server return by its annotation.
    pub fn wants_dsr(&self) -> bool {
        !self.direct.is_empty()
    }

    /// Names of all Services.
    pub fn service_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// The slices of a Service, ordered by name.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &Slice> + Clone {
        self.slices.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// A Node.
    pub fn node(&self, name: &ObjectName) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// All Nodes, ordered by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// All ServiceCIDRs, ordered by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    /// A Pod.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All Pods that are known, ordered by name: those of this node, but for objects that are read
    /// from files.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    fn put_service(&mut self, service: Service) {
        if self.services.get(&service.name) == Some(&service) {
            return;
        }
        self.dirty.services.insert(service.name.clone());
        self.dirty.service_changes += 1;
        if service.forwarding == Some(Forwarding::Dsr) {
            self.direct.insert(service.name.clone());
        } else {
            self.direct.remove(&service.name);
        }
        self.services.insert(service.name.clone(), service);
    }

    fn put_slice(&mut self, slice: Slice) {
        if let Some(owner) = self.owners.get(&slice.name) {
            let old = self.slices.get(owner).and_then(|slices| slices.get(&slice.name));
            if old.is_some_and(|old| same_endpoints(old, &slice)) {
                return;
            }
            if *owner != slice.service {
                self.delete_slice(&slice.name);
            }
        }
        self.dirty.services.insert(slice.service.clone());
        self.dirty.slice_changes += 1;
        self.dirty.trigger_times.extend(slice.trigger_time);
        self.owners.insert(slice.name.clone(), slice.service.clone());
        self.slices.entry(slice.service.clone()).or_default().insert(slice.name.clone(), slice);
    }

    fn delete(&mut self, kind: Kind, name: &ObjectName) {
        match kind {
            Kind::Service => {
                if self.services.remove(name).is_some() {
                    self.direct.remove(name);
                    self.dirty.services.insert(name.clone());
                    self.dirty.service_changes += 1;
                }
            }
            Kind::Slice => self.delete_slice(name),
            Kind::Node => self.dirty.nodes |= self.nodes.remove(name).is_some(),
            Kind::ServiceCidr => {
                self.dirty.service_cidrs |= self.service_cidrs.remove(name).is_some();
            }
            Kind::Pod => {
                if self.pods.remove(name).is_some() {
                    self.dirty.pods.insert(name.clone());
                }
            }
        }
    }

    fn delete_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.owners.remove(name) else {
            return;
        };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.dirty.slice_changes += 1;
        self.dirty.services.insert(owner);
    }

    fn names(&self, kind: Kind) -> Box<dyn Iterator<Item = &ObjectName> + '_> {
        match kind {
            Kind::Service => Box::new(self.services.keys()),
            Kind::Slice => Box::new(self.owners.keys()),
            Kind::Node => Box::new(self.nodes.keys()),
            Kind::ServiceCidr => Box::new(self.service_cidrs.keys()),
            Kind::Pod => Box::new(self.pods.keys()),
        }
    }
}

/// Whether nothing but the trigger time differs.
fn same_endpoints(old: &Slice, new: &Slice) -> bool {
    let Slice { name: _, service, ports, endpoints, trigger_time: _ } = old;
    *service == new.service && *ports == new.ports && *endpoints == new.endpoints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;

    fn slice(name: &str, service: &str, address: &str) -> Slice {
        Slice {
            name: ObjectName::namespaced("ns", name),
            service: ObjectName::namespaced("ns", service),
            ports: Box::default(),
            endpoints: [Endpoint::new(address.parse().expect("an address"))].into(),
            trigger_time: None,
        }
    }

    #[test]
    fn a_slice_that_changes_owner_concerns_both_services() {
        let mut model = Model::default();
        model.apply(Event::Slice(slice("s", "a", "10.0.0.1")));
        model.take_dirty();
        model.apply(Event::Slice(slice("s", "b", "10.0.0.1")));
        let dirty = model.take_dirty();
        assert_eq!(dirty.services.len(), 2);
        assert_eq!(model.slices(&ObjectName::namespaced("ns", "a")).count(), 0);
        assert_eq!(model.slices(&ObjectName::namespaced("ns", "b")).count(), 1);
    }

    #[test]
    fn what_a_list_lacks_is_gone() {
        let mut model = Model::default();
        for name in ["a", "b"] {
            model.apply(Event::Service(Service::new(ObjectName::namespaced("ns", name))));
        }
        model.take_dirty();
        let listed = HashSet::from([ObjectName::namespaced("ns", "b")]);
        model.apply(Event::Listed(Kind::Service, listed));
        assert!(model.is_listed(Kind::Service) && !model.is_listed(Kind::Slice));
        let gone = ObjectName::namespaced("ns", "a");
        assert!(model.service(&gone).is_none());
        assert_eq!(model.take_dirty().services, BTreeSet::from([gone]));
    }

    #[test]
    fn news_that_says_nothing_new_is_not_a_change() {
        let mut model = Model::default();
        model.apply(Event::Slice(slice("s", "a", "10.0.0.1")));
        model.apply(Event::Node(Node::new("n")));
        model.take_dirty();
        let mut again = slice("s", "a", "10.0.0.1");
        again.trigger_time = Some(SystemTime::UNIX_EPOCH);
        model.apply(Event::Slice(again));
        model.apply(Event::Node(Node::new("n")));
        assert!(!model.is_dirty());
    }
}

//! The objects of a cluster, with every field that may matter to a proxy and no other.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// Transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `spec.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// `ClusterIP`.
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`.
    ExternalName,
}

/// One entry of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// By which endpoints are joined.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the cluster address and of external addresses.
    pub port: u16,
    /// Port of every node.
    pub node_port: Option<u16>,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ingress {
    /// Its address.
    pub ip: IpAddr,
    /// `ipMode: Proxy`: the load balancer wants the traffic itself.
    pub proxied: bool,
}

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Name in the namespace `default`.
    pub name: String,
    /// Creation time in seconds since 1970.
    pub created: i64,
    /// Label `service.kubernetes.io/service-proxy-name`.
    pub proxy_name: Option<String>,
    /// `spec.type`.
    pub kind: Type,
    /// `spec.clusterIPs`, at most one per family; none if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.sessionAffinity: ClientIP` with this timeout in seconds.
    pub affinity: Option<u32>,
}

/// One entry of a slice's `ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// Name of the Service port that it serves.
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints.
    pub port: Option<u16>,
}

/// One entry of a slice's `endpoints`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its one address.
    pub address: IpAddr,
    /// Its node.
    pub node: Option<String>,
    /// `conditions.ready`.
    pub ready: Option<bool>,
    /// `conditions.serving`.
    pub serving: Option<bool>,
    /// `conditions.terminating`.
    pub terminating: Option<bool>,
    /// `hints.forZones`.
    pub for_zones: Vec<String>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<String>,
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Name in the namespace `default`.
    pub name: String,
    /// Label `kubernetes.io/service-name`.
    pub service: Option<String>,
    /// Label `service.kubernetes.io/headless`.
    pub headless: bool,
    /// `addressType: IPv6`.
    pub v6: bool,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// A Node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its `InternalIP`s, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

impl Node {
    /// Its address of the family of `like`.
    pub fn address(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
    }
}

/// A ServiceCIDR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceCidr {
    /// Its name.
    pub name: String,
    /// Its ranges.
    pub cidrs: Vec<IpNet>,
}

/// Any of them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each holds what it is called")]
pub enum Object {
    Service(Service),
    Slice(Slice),
    Node(Node),
    ServiceCidr(ServiceCidr),
}

/// Kind and name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    /// As in `kind: Service`.
    pub kind: &'static str,
    /// `metadata.name`.
    pub name: String,
}

/// Something that happens to a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// An object is created, or becomes this.
    Put(Object),
    /// An object is deleted, if it is there.
    Delete(Name),
}

/// All objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    /// By name, as all others.
    pub services: BTreeMap<String, Service>,
    /// EndpointSlices.
    pub slices: BTreeMap<String, Slice>,
    /// Nodes.
    pub nodes: BTreeMap<String, Node>,
    /// ServiceCIDRs.
    pub service_cidrs: BTreeMap<String, ServiceCidr>,
}

impl Cluster {
    /// Takes a step.
    pub fn take(&mut self, step: &Step) {
        match step.clone() {
            Step::Put(Object::Service(object)) => {
                self.services.insert(object.name.clone(), object);
            }
            Step::Put(Object::Slice(object)) => {
                self.slices.insert(object.name.clone(), object);
            }
            Step::Put(Object::Node(object)) => {
                self.nodes.insert(object.name.clone(), object);
            }
            Step::Put(Object::ServiceCidr(object)) => {
                self.service_cidrs.insert(object.name.clone(), object);
            }
            Step::Delete(Name { kind, name }) => match kind {
                Service::KIND => _ = self.services.remove(&name),
                Slice::KIND => _ = self.slices.remove(&name),
                Node::KIND => _ = self.nodes.remove(&name),
                _ => _ = self.service_cidrs.remove(&name),
            },
        }
    }

    /// All objects, each as it is now.
    pub fn objects(&self) -> Vec<Object> {
        let Self { services, slices, nodes, service_cidrs } = self;
        let services = services.values().cloned().map(Object::Service);
        let slices = slices.values().cloned().map(Object::Slice);
        let nodes = nodes.values().cloned().map(Object::Node);
        let cidrs = service_cidrs.values().cloned().map(Object::ServiceCidr);
        services.chain(slices).chain(nodes).chain(cidrs).collect()
    }

    /// What clients of this cluster might dial: every address and port that an object names, and
    /// for each address a port that none does.
    pub fn destinations(&self) -> BTreeSet<(IpAddr, u16)> {
        let nodes: Vec<IpAddr> =
            self.nodes.values().flat_map(|node| &node.addresses).copied().collect();
        let mut all = BTreeSet::new();
        for service in self.services.values() {
            let balanced = service.ingress.iter().map(|ingress| &ingress.ip);
            for ip in service.cluster_ips.iter().chain(&service.external_ips).chain(balanced) {
                all.extend(service.ports.iter().map(|port| (*ip, port.port)));
                all.insert((*ip, UNSERVED));
            }
            for port in service.ports.iter().filter_map(|port| port.node_port) {
                all.extend(nodes.iter().map(|node| (*node, port)));
            }
        }
        for range in self.service_cidrs.values().flat_map(|object| &object.cidrs) {
            all.extend(range.hosts().nth(UNALLOCATED).map(|ip| (ip, 80)));
        }
        all
    }
}

/// A port that no Service of a history has.
const UNSERVED: u16 = 9;
/// Number of an address in a ServiceCIDR that no Service of a history has.
const UNALLOCATED: usize = 230;

impl Service {
    /// Its `kind`.
    pub const KIND: &str = "Service";

    /// A Service of type ClusterIP with nothing but its addresses.
    pub fn new(name: &str, cluster_ips: Vec<IpAddr>) -> Self {
        Self {
            name: name.to_owned(),
            created: 0,
            proxy_name: None,
            kind: Type::ClusterIp,
            cluster_ips,
            ports: Vec::new(),
            external_ips: Vec::new(),
            ingress: Vec::new(),
            source_ranges: Vec::new(),
            internal_local: false,
            external_local: false,
            affinity: None,
        }
    }
}

impl Slice {
    /// Its `kind`.
    pub const KIND: &str = "EndpointSlice";
}

impl Node {
    /// Its `kind`.
    pub const KIND: &str = "Node";
}

impl ServiceCidr {
    /// Its `kind`.
    pub const KIND: &str = "ServiceCIDR";
}

impl Object {
    /// What it is called.
    pub fn name(&self) -> Name {
        let (kind, name) = match self {
            Self::Service(object) => (Service::KIND, &object.name),
            Self::Slice(object) => (Slice::KIND, &object.name),
            Self::Node(object) => (Node::KIND, &object.name),
            Self::ServiceCidr(object) => (ServiceCidr::KIND, &object.name),
        };
        Name { kind, name: name.clone() }
    }
}

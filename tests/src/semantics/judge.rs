//! What the proxy of a node does with the first packet of a connection (reference 1.2 to 1.6).

use super::{
    Deviation,
    endpoints::Endpoints,
    facts::{Cluster, Node, Port, Protocol, Service, Type},
};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Who sends, seen from the node that judges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Client {
    /// A pod of this node.
    Pod(IpAddr),
    /// A process in this node's own network, which sends from the node's address.
    Host(IpAddr),
    /// Anyone else, whose packets arrive from outside.
    Outside(IpAddr),
}

impl Client {
    /// The source address of its packets.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Pod(ip) | Self::Host(ip) | Self::Outside(ip) => ip,
        }
    }
}

/// The first packet of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Packet {
    /// Who sends it.
    pub client: Client,
    /// Where to.
    pub to: SocketAddr,
    /// How.
    pub protocol: Protocol,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {}/{}", self.client, self.to, self.protocol)
    }
}

/// What source address a backend sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// The client's own.
    Kept,
    /// One of the node's. A host process has no other.
    Node,
}

/// What becomes of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// One of these backends gets it, each as likely as the others.
    Sent(BTreeMap<SocketAddr, Source>),
    /// The client is told that nobody serves there.
    Rejected,
    /// Silence.
    Dropped,
    /// It goes on as if there were no proxy.
    NotAService,
}

/// How a proxy knows which sources are pods of its node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Detector {
    /// Those in these ranges (`detectLocalMode: ClusterCIDR`).
    ClusterCidr(Vec<IpNet>),
    /// Not at all.
    None,
}

/// On which of the node's addresses node ports are served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodePorts {
    /// Those of the Node object.
    Primary,
    /// Those in these ranges.
    Ranges(Vec<IpNet>),
}

/// The proxy of a node: what it knows and how it is configured.
#[derive(Clone, Debug)]
pub struct Proxy<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The node's name.
    pub node: &'a str,
    /// The node's own addresses.
    pub own: &'a [IpAddr],
    /// `detectLocalMode`.
    pub detector: Detector,
    /// `masqueradeAll`.
    pub masquerade_all: bool,
    /// `nodePortAddresses`.
    pub node_ports: NodePorts,
    /// Where it differs from kube-proxy.
    pub deviations: &'a [Deviation],
}

/// What kind of address was dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frontend {
    ClusterIp,
    ExternalIp,
    Vip,
    NodePort,
}

impl Proxy<'_> {
    /// What becomes of a packet.
    pub fn judge(&self, packet: &Packet) -> Verdict {
        if let Some((service, port, frontend)) = self.find(packet) {
            return self.dialled(service, port, frontend, packet);
        }
        let to = packet.to.ip();
        if self.own.contains(&to) {
            return Verdict::NotAService;
        }
        // 1.2: a port that an active cluster address does not serve, an address that nobody has.
        if self.services().any(|service| service.cluster_ips.contains(&to)) {
            return Verdict::Rejected;
        }
        let reserved = self.cluster.service_cidrs.values().flat_map(|object| &object.cidrs);
        if reserved.into_iter().any(|range| range.contains(&to)) {
            return Verdict::Dropped;
        }
        Verdict::NotAService
    }

    /// Whether the Service asks for session affinity where the packet goes.
    pub fn is_sticky(&self, packet: &Packet) -> bool {
        self.find(packet).is_some_and(|(service, ..)| service.affinity.is_some())
    }

    /// The Services that proxies look at (1.1), the older first: of two claims it wins.
    fn services(&self) -> impl Iterator<Item = &Service> {
        let mut services: Vec<_> = self
            .cluster
            .services
            .values()
            .filter(|service| service.kind != Type::ExternalName)
            .filter(|service| service.proxy_name.is_none())
            .collect();
        services.sort_by_key(|service| (service.created, &service.name));
        services.into_iter()
    }

    /// What was dialled, if a Service has it (1.2). A Service counts for a family only if it has a
    /// cluster address of that family.
    fn find(&self, packet: &Packet) -> Option<(&Service, &Port, Frontend)> {
        let to = packet.to.ip();
        let in_family =
            |service: &&Service| service.cluster_ips.iter().any(|ip| ip.is_ipv4() == to.is_ipv4());
        let by_address = self.services().filter(in_family).find_map(|service| {
            let vip = |ip: IpAddr| service.ingress.iter().any(|it| !it.proxied && it.ip == ip);
            let frontend = if service.cluster_ips.contains(&to) {
                Frontend::ClusterIp
            } else if vip(to) {
                Frontend::Vip
            } else if service.external_ips.contains(&to) {
                Frontend::ExternalIp
            } else {
                return None;
            };
            let number = packet.to.port();
            let mut ports = service.ports.iter();
            let port = ports.find(|it| it.port == number && it.protocol == packet.protocol)?;
            Some((service, port, frontend))
        });
        by_address.or_else(|| {
            if !self.serves_node_ports(to) {
                return None;
            }
            self.services().filter(in_family).find_map(|service| {
                let mut ports = service.ports.iter();
                let port = ports.find(|it| {
                    it.node_port == Some(packet.to.port()) && it.protocol == packet.protocol
                })?;
                Some((service, port, Frontend::NodePort))
            })
        })
    }

    fn serves_node_ports(&self, to: IpAddr) -> bool {
        self.own.contains(&to)
            && match &self.node_ports {
                NodePorts::Primary => {
                    self.this_node().and_then(|node| node.address(to)) == Some(to)
                }
                NodePorts::Ranges(ranges) => ranges.iter().any(|range| range.contains(&to)),
            }
    }

    fn this_node(&self) -> Option<&Node> {
        self.cluster.nodes.get(self.node)
    }

    /// What becomes of a packet to a Service port.
    fn dialled(
        &self,
        service: &Service,
        port: &Port,
        frontend: Frontend,
        packet: &Packet,
    ) -> Verdict {
        if frontend == Frontend::Vip && !self.is_admitted(service, packet) {
            return Verdict::Dropped;
        }
        let endpoints = Endpoints::of(self.cluster, service, port, packet.to.ip());
        if !endpoints.any() {
            return Verdict::Rejected;
        }
        let from_pod = self.is_pod(packet.client);
        let from_host = self.own.contains(&packet.client.address());
        // 1.4 and 1.6, row by row.
        let (local, masquerade) = match frontend {
            Frontend::ClusterIp => {
                let hidden = self.masquerade_all
                    || (matches!(self.detector, Detector::ClusterCidr(_)) && !from_pod);
                (service.internal_local, hidden)
            }
            Frontend::NodePort | Frontend::ExternalIp | Frontend::Vip => {
                match is_external_local(service) {
                    false => (false, true),
                    // As if the client went to the load balancer and came back.
                    true if from_pod => (false, false),
                    true if from_host => (false, true),
                    true => (true, false),
                }
            }
        };
        let backends = if local {
            endpoints.local(self.node)
        } else {
            let zone = self.this_node().and_then(|node| node.zone.as_deref());
            endpoints.cluster(self.node, zone)
        };
        if backends.is_empty() {
            return Verdict::Dropped;
        }
        let source = |backend: SocketAddr| self.source(packet.client, backend.ip(), masquerade);
        Verdict::Sent(backends.into_iter().map(|backend| (backend, source(backend))).collect())
    }

    /// 1.2: source ranges of the other family only do not count, nor does a range of everything.
    fn is_admitted(&self, service: &Service, packet: &Packet) -> bool {
        let from = packet.client.address();
        let in_family = |range: &&IpNet| range.addr().is_ipv4() == from.is_ipv4();
        let ranges: Vec<_> = service.source_ranges.iter().filter(in_family).collect();
        let everything = ranges.iter().any(|range| range.prefix_len() == 0);
        // A load balancer's address may be one of the node, which is then its own client.
        let node = self.this_node().and_then(|node| node.address(from));
        let node_admitted = ranges.iter().any(|range| node.is_some_and(|ip| range.contains(&ip)));
        ranges.is_empty()
            || everything
            || ranges.iter().any(|range| range.contains(&from))
            || (node_admitted && service.ingress.iter().any(|it| !it.proxied && it.ip == from))
    }

    /// Whether the local detector takes the client for a pod of this node.
    fn is_pod(&self, client: Client) -> bool {
        let Detector::ClusterCidr(ranges) = &self.detector else { return false };
        let detected = ranges.iter().any(|range| range.contains(&client.address()));
        let is_outside = self.deviations.contains(&Deviation::RemotePodIsOutside)
            && matches!(client, Client::Outside(_));
        detected && !is_outside
    }

    /// 1.6: what the backend sees. A backend that is a process of this very node is met before any
    /// source could be replaced. A pod that gets itself needs another source, or it would answer
    /// itself without us; that a pod of another node may get itself, nobody looks after.
    fn source(&self, client: Client, backend: IpAddr, masquerade: bool) -> Source {
        match client {
            Client::Host(_) => Source::Node,
            _ if self.own.contains(&backend) => Source::Kept,
            Client::Pod(pod) if pod == backend => Source::Node,
            _ if masquerade => Source::Node,
            Client::Pod(_) | Client::Outside(_) => Source::Kept,
        }
    }
}

/// 1.4: the external policy is read where the Service can be reached from outside.
fn is_external_local(service: &Service) -> bool {
    let external = match service.kind {
        Type::NodePort | Type::LoadBalancer => true,
        Type::ClusterIp => !service.external_ips.is_empty(),
        Type::ExternalName => false,
    };
    external && service.external_local
}

//! Who asks, who answers, and which addresses a Service of a case has: the vocabulary of the table.

use crate::{
    manifest::POD_PORT,
    proto::Proto,
    topology::{Family, NODES, NodeSpec, OUTSIDE},
};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The node that most clients are on.
pub const HOME: &NodeSpec = &NODES[1];
/// Another node.
pub const AWAY: &NodeSpec = &NODES[2];
/// A third one, whose Node object cases may change.
pub const ELSEWHERE: &NodeSpec = &NODES[3];

/// Port of pods in the host network.
pub const HOST_PORT: u16 = 9080;

/// A place from which a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// What the table calls it.
    pub label: &'static str,
    /// Its namespace in the lab.
    pub space: &'static str,
    /// What it is.
    pub kind: ClientKind,
    /// The node that it is on; for the client outside, the node that its requests enter by.
    pub node: &'static NodeSpec,
}

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// A pod with a network of its own.
    Pod,
    /// A process of a node.
    Host,
    /// Not in the cluster.
    Outside,
}

/// A pod.
pub const POD: Client = Client { label: "pod", space: "client", kind: ClientKind::Pod, node: HOME };
/// Another pod of the same node.
pub const POD_2: Client =
    Client { label: "second pod", space: "client-2", kind: ClientKind::Pod, node: HOME };
/// A pod of another node.
pub const AWAY_POD: Client =
    Client { label: "pod of another node", space: "far-client", kind: ClientKind::Pod, node: AWAY };
/// A pod of the third node.
pub const ELSEWHERE_POD: Client = Client {
    label: "pod of a third node",
    space: "third-client",
    kind: ClientKind::Pod,
    node: ELSEWHERE,
};
/// A process of the first pod's node.
pub const NODE: Client =
    Client { label: "node", space: HOME.name, kind: ClientKind::Host, node: HOME };
/// A process of the other node.
pub const AWAY_NODE: Client =
    Client { label: "another node", space: AWAY.name, kind: ClientKind::Host, node: AWAY };
/// A process of the node that is in no zone.
pub const CONTROL_NODE: Client = Client {
    label: "node without zone",
    space: NODES[0].name,
    kind: ClientKind::Host,
    node: &NODES[0],
};
/// A client on the network of the nodes.
pub const OUTSIDE_CLIENT: Client =
    Client { label: "outside", space: OUTSIDE, kind: ClientKind::Outside, node: HOME };

/// An entry of an EndpointSlice: a pod of the lab with conditions and hints.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// The pod's name.
    pub pod: &'static str,
    /// Where it is.
    pub node: &'static NodeSpec,
    /// The port it serves.
    pub port: u16,
    /// `ready`, `serving`, `terminating`.
    conditions: [Option<bool>; 3],
    zone: Option<&'static str>,
    hinted_node: Option<&'static str>,
}

/// A backend on the clients' node, and so on.
pub const NEAR: Endpoint = Endpoint::of("near", HOME);
/// A second one there.
pub const NEAR_2: Endpoint = Endpoint::of("near-2", HOME);
/// A backend on another node.
pub const FAR: Endpoint = Endpoint::of("far", AWAY);
/// A second one there.
pub const FAR_2: Endpoint = Endpoint::of("far-2", AWAY);
/// A backend on the third node.
pub const THIRD: Endpoint = Endpoint::of("third", ELSEWHERE);
/// The first client itself.
pub const ITSELF: Endpoint = Endpoint::of(POD.space, HOME);
/// A backend in the network of the clients' node.
pub const HOST_NEAR: Endpoint = Endpoint::of("host-near", HOME).at(HOST_PORT);
/// A backend in the network of another node.
pub const HOST_FAR: Endpoint = Endpoint::of("host-far", AWAY).at(HOST_PORT);

impl Endpoint {
    /// A ready endpoint.
    pub const fn of(pod: &'static str, node: &'static NodeSpec) -> Self {
        Self {
            pod,
            node,
            port: POD_PORT,
            conditions: [Some(true), Some(true), Some(false)],
            zone: None,
            hinted_node: None,
        }
    }

    const fn at(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// With these conditions: `ready`, `serving`, `terminating`.
    #[must_use]
    pub const fn conditions(mut self, conditions: [Option<bool>; 3]) -> Self {
        self.conditions = conditions;
        self
    }

    /// Not ready.
    #[must_use]
    pub const fn unready(self) -> Self {
        self.conditions([Some(false), Some(false), Some(false)])
    }

    /// Terminating, and still serving.
    #[must_use]
    pub const fn draining(self) -> Self {
        self.conditions([Some(false), Some(true), Some(true)])
    }

    /// Terminating, and no longer serving.
    #[must_use]
    pub const fn ending(self) -> Self {
        self.conditions([Some(false), Some(false), Some(true)])
    }

    /// With a hint for a zone.
    #[must_use]
    pub const fn for_zone(mut self, zone: &'static str) -> Self {
        self.zone = Some(zone);
        self
    }

    /// With a hint for a node.
    #[must_use]
    pub const fn for_node(mut self, node: &'static NodeSpec) -> Self {
        self.hinted_node = Some(node.name);
        self
    }

    /// The entry of a slice, given the pod's address.
    pub fn entry(&self, address: IpAddr) -> Value {
        let [ready, serving, terminating] = self.conditions;
        let mut entry = json!({
            "addresses": [address],
            "nodeName": self.node.name,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        });
        if let Some(zone) = self.zone {
            entry["hints"]["forZones"] = json!([{"name": zone}]);
        }
        if let Some(node) = self.hinted_node {
            entry["hints"]["forNodes"] = json!([{"name": node}]);
        }
        entry
    }
}

/// Which of a Service's addresses is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The ClusterIP.
    Cluster,
    /// The NodePort on a node's address.
    Node(&'static NodeSpec),
    /// The NodePort on the loopback address.
    Loopback,
    /// The NodePort on the address that the node has for its pods.
    Gateway(&'static NodeSpec),
    /// An address that clients outside reach by way of a node.
    Entry(Entry),
    /// One that no Service has.
    Free,
}

/// An address from outside of the cluster; each Service has its own of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `status.loadBalancer`, by way of [`HOME`].
    Vip,
    /// The same by way of [`AWAY`].
    AwayVip,
    /// `externalIPs`, by way of [`HOME`].
    External,
    /// The same by way of [`AWAY`].
    AwayExternal,
}

impl Entry {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Vip, Self::AwayVip, Self::External, Self::AwayExternal];

    /// Number `index` of the kind's addresses.
    pub fn address(self, family: Family, index: u8) -> IpAddr {
        let kind = self as u8;
        match family {
            Family::V4 => Ipv4Addr::new(198, 18, kind, index).into(),
            Family::V6 => {
                Ipv6Addr::new(0x2001, 0xdb8, kind.into(), 0, 0, 0, 0, index.into()).into()
            }
        }
    }

    /// The kind's addresses as a range.
    pub fn range(self, family: Family) -> String {
        let first = self.address(family, 0);
        format!("{first}/{}", if family == Family::V4 { 24 } else { 64 })
    }

    /// The node by which clients outside reach it.
    pub fn by(self) -> &'static NodeSpec {
        match self {
            Self::Vip | Self::External => HOME,
            Self::AwayVip | Self::AwayExternal => AWAY,
        }
    }
}

/// An address and port of a Service of the case.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The address.
    pub address: Address,
    /// Which of the case's Services; the first has no name.
    pub service: &'static str,
    /// The port, where it is not 80.
    pub port: u16,
}

const fn target(address: Address) -> Target {
    Target { address, service: "", port: 80 }
}

/// The Service's ClusterIP.
pub const CLUSTER_IP: Target = target(Address::Cluster);
/// Its NodePort on the clients' node.
pub const NODE_PORT: Target = target(Address::Node(HOME));
/// Its NodePort on another node.
pub const AWAY_NODE_PORT: Target = target(Address::Node(AWAY));
/// Its NodePort on the third node.
pub const THIRD_NODE_PORT: Target = target(Address::Node(ELSEWHERE));
/// Its NodePort on 127.0.0.1 and `::1`.
pub const LOCALHOST: Target = target(Address::Loopback);
/// Its NodePort on an address of the node that is not the primary one.
pub const GATEWAY_PORT: Target = target(Address::Gateway(HOME));
/// Its load balancer address, by way of the clients' node.
pub const VIP: Target = target(Address::Entry(Entry::Vip));
/// Its load balancer address, by way of another node.
pub const AWAY_VIP: Target = target(Address::Entry(Entry::AwayVip));
/// Its external IP, by way of the clients' node.
pub const EXTERNAL_IP: Target = target(Address::Entry(Entry::External));
/// Its external IP, by way of another node.
pub const AWAY_EXTERNAL_IP: Target = target(Address::Entry(Entry::AwayExternal));
/// An address of the Services' range that no Service has.
pub const FREE_IP: Target = target(Address::Free);

impl Target {
    /// At another port.
    #[must_use]
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Of another Service of the case.
    #[must_use]
    pub const fn of(mut self, service: &'static str) -> Self {
        self.service = service;
        self
    }

    /// The node that decides about a request of this client.
    pub fn decided_by(self, client: Client) -> &'static NodeSpec {
        match (self.address, client.kind) {
            (Address::Node(node) | Address::Gateway(node), _) => node,
            (Address::Entry(entry), ClientKind::Outside) => entry.by(),
            _ => client.node,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Address::Cluster => f.write_str("ClusterIP")?,
            Address::Node(node) if node.name == HOME.name => f.write_str("NodePort")?,
            Address::Node(node) if node.name == AWAY.name => {
                f.write_str("NodePort of another node")?;
            }
            Address::Node(_) => f.write_str("NodePort of a third node")?,
            Address::Loopback => f.write_str("NodePort on localhost")?,
            Address::Gateway(_) => f.write_str("NodePort on the pods' gateway")?,
            Address::Entry(Entry::Vip) => f.write_str("LB address")?,
            Address::Entry(Entry::AwayVip) => f.write_str("LB address at another node")?,
            Address::Entry(Entry::External) => f.write_str("external IP")?,
            Address::Entry(Entry::AwayExternal) => f.write_str("external IP at another node")?,
            Address::Free => f.write_str("unallocated Service address")?,
        }
        if self.port != 80 {
            write!(f, " port {}", self.port)?;
        }
        if !self.service.is_empty() {
            write!(f, " of `{}`", self.service)?;
        }
        Ok(())
    }
}

/// A way to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Transport.
    pub proto: Proto,
    /// Whether the socket is connected.
    pub connected: bool,
}

/// TCP.
pub const TCP: Way = Way { proto: Proto::Tcp, connected: true };
/// UDP from a socket that is not connected.
pub const UDP: Way = Way { proto: Proto::Udp, connected: false };
/// UDP from a connected socket.
pub const CONNECTED_UDP: Way = Way { proto: Proto::Udp, connected: true };
/// SCTP from a raw socket.
pub const SCTP: Way = Way { proto: Proto::Sctp, connected: true };
/// All ways.
pub const WAYS: &[Way] = &[TCP, UDP, CONNECTED_UDP, SCTP];

impl Way {
    /// The question whose answer names the server and the client that it sees.
    pub const fn who(self) -> &'static str {
        match self.proto {
            Proto::Tcp => "/",
            Proto::Udp | Proto::Sctp => "who",
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connected = if self.connected && self.proto == Proto::Udp { "connected " } else { "" };
        write!(f, "{connected}{}", self.proto)
    }
}

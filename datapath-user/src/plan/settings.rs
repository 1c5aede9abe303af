//! What the operator decides.

use super::{LocalDetector, NodePortAddresses};
use crate::model::{Algorithm, Forwarding, ObjectName};
use ipnet::IpNet;
use std::{net::IpAddr, str::FromStr};

/// Who carries packets between pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Routing {
    /// The cluster's own network.
    None,
    /// We do, straight between nodes.
    Native,
    /// We do, wrapped in IP between nodes.
    Ipip,
    /// We do, straight to nodes in this node's subnet, wrapped to all others.
    CrossSubnet,
    /// Where another CNI owns routing: we do where the kernel itself would send a node's pods straight to
    /// that node. Else as `Native` where all nodes share a subnet, as `CrossSubnet` where not.
    #[default]
    Auto,
}

impl Routing {
    /// Whether we know the way to the pods of all nodes.
    pub const fn is_ours(self) -> bool {
        match self {
            Self::Native | Self::Ipip | Self::CrossSubnet => true,
            Self::None | Self::Auto => false,
        }
    }

    /// Whether packets to some nodes may be wrapped.
    pub const fn has_tunnels(self) -> bool {
        matches!(self, Self::Ipip | Self::CrossSubnet)
    }

    /// As flags spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Native => "native",
            Self::Ipip => "ipip",
            Self::CrossSubnet => "cross-subnet",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for Routing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::None, Self::Native, Self::Ipip, Self::CrossSubnet, Self::Auto];
        all.into_iter()
            .find(|routing| routing.name() == text)
            .ok_or_else(|| format!("{text:?} is not one of {}", all.map(Self::name).join(", ")))
    }
}

/// Whether what pods send out of the cluster leaves with their node's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MasqueradeOutside {
    /// It does where no other CNI owns the node's network, which would see to it.
    #[default]
    Auto,
    /// It does.
    On,
    /// It leaves as it is.
    Off,
}

impl FromStr for MasqueradeOutside {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is not one of auto, on, off")),
        }
    }
}

/// What the planner needs to know besides the cluster.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// This node's name.
    pub node: ObjectName,
    /// Only Services whose label `service.kubernetes.io/service-proxy-name` is this are ours;
    /// `None`: only those without the label.
    pub proxy_name: Option<String>,
    /// The source address of everything sent to a cluster address is replaced.
    pub masquerade_all: bool,
    /// How backends are chosen, unless a Service says otherwise.
    pub algorithm: Algorithm,
    /// How what comes from outside reaches other nodes, unless a Service says otherwise.
    pub forwarding: Forwarding,
    /// How pods of this node are told from other clients.
    pub local: LocalDetector,
    /// Counts as the node's primary address of its family, in place of that of its Node object.
    pub primary: Option<IpAddr>,
    /// Who carries packets between pods.
    pub routing: Routing,
    /// Whether no other CNI owns routing.
    pub sole_network: bool,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// First and last source port given to flows whose source address is replaced.
    pub masquerade_ports: (u16, u16),
    /// Whether what pods send out of the cluster leaves with their node's address.
    pub masquerade_outside: MasqueradeOutside,
    /// Ranges outside of the cluster to which pods keep their own address.
    pub non_masquerade_cidrs: Vec<IpNet>,
}

impl Settings {
    /// The defaults on the node of that name.
    pub fn new(node: &str) -> Self {
        Self {
            node: ObjectName::cluster(node),
            proxy_name: None,
            masquerade_all: false,
            algorithm: Algorithm::default(),
            forwarding: Forwarding::default(),
            local: LocalDetector::default(),
            primary: None,
            routing: Routing::default(),
            sole_network: false,
            node_port_addresses: NodePortAddresses::default(),
            masquerade_ports: (1024, 29_999),
            masquerade_outside: MasqueradeOutside::default(),
            non_masquerade_cidrs: Vec::new(),
        }
    }

    /// Whether what pods send out of the cluster leaves with their node's address, after all.
    pub fn masquerades(&self) -> bool {
        match self.masquerade_outside {
            MasqueradeOutside::Auto => self.sole_network,
            MasqueradeOutside::On => true,
            MasqueradeOutside::Off => false,
        }
    }
}

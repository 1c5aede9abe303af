//! What the operator decides.

use super::{LocalDetector, NodePortAddresses};
use crate::model::ObjectName;
use std::{net::IpAddr, str::FromStr};

/// Who carries packets between pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Routing {
    /// The cluster's own network.
    None,
    /// We do, straight between nodes.
    Native,
    /// We do where the kernel itself would send a node's pods straight to that node.
    #[default]
    Auto,
}

impl FromStr for Routing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "native" => Ok(Self::Native),
            "auto" => Ok(Self::Auto),
            other => Err(format!("{other:?} is not one of none, native, auto")),
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
    /// How pods of this node are told from other clients.
    pub local: LocalDetector,
    /// Counts as the node's primary address of its family, in place of that of its Node object.
    pub primary: Option<IpAddr>,
    /// Who carries packets between pods.
    pub routing: Routing,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// First and last source port given to flows whose source address is replaced.
    pub masquerade_ports: (u16, u16),
}

impl Settings {
    /// The defaults on the node of that name.
    pub fn new(node: &str) -> Self {
        Self {
            node: ObjectName::cluster(node),
            proxy_name: None,
            masquerade_all: false,
            local: LocalDetector::default(),
            primary: None,
            routing: Routing::default(),
            node_port_addresses: NodePortAddresses::default(),
            masquerade_ports: (1024, 29_999),
        }
    }
}

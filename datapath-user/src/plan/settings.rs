//! What the operator decides.

use crate::model::{Family, ObjectName};
use ipnet::IpNet;
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

/// On which of the node's addresses node ports are served.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum NodePortAddresses {
    /// The addresses of the Node object, one per family.
    #[default]
    Primary,
    /// All but loopback addresses.
    All,
    /// Those in these ranges. As in kube-proxy, a family without a range is served on all of its
    /// addresses.
    Ranges(Vec<IpNet>),
}

impl NodePortAddresses {
    /// Whether node ports are served on `address`, given the Node object's addresses.
    pub fn include(&self, address: IpAddr, primary: &[IpAddr]) -> bool {
        match self {
            Self::Primary => primary.contains(&address),
            Self::All => true,
            Self::Ranges(ranges) => {
                let family = Family::of(address);
                let mut ranges =
                    ranges.iter().filter(|range| Family::of_net(**range) == family).peekable();
                ranges.peek().is_none() || ranges.any(|range| range.contains(&address))
            }
        }
    }
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            list => list
                .split(',')
                .map(|range| {
                    range.trim().parse().map_err(|error| {
                        format!("{range:?} is not a range of addresses ({error}), primary or all")
                    })
                })
                .collect::<Result<_, _>>()
                .map(Self::Ranges),
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
    /// Addresses of pods; empty: the podCIDRs of all Nodes.
    pub cluster_cidrs: Vec<IpNet>,
    /// Who carries packets between pods.
    pub routing: Routing,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
}

impl Settings {
    /// The defaults on the node of that name.
    pub fn new(node: &str) -> Self {
        Self {
            node: ObjectName::cluster(node),
            proxy_name: None,
            masquerade_all: false,
            cluster_cidrs: Vec::new(),
            routing: Routing::default(),
            node_port_addresses: NodePortAddresses::default(),
        }
    }
}

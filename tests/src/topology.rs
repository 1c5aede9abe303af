//! The reference cluster `myk8s`: its nodes, addresses and ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dual {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// The address of one family.
    pub fn get(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

/// What a node of the cluster is called and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Name of the Node object.
    pub name: &'static str,
    /// Last byte of its addresses on the node network.
    pub host: u8,
    /// Third byte of its IPv4 pod range, last group of the network part of its IPv6 pod range.
    pub block: u8,
    /// Value of the label `mynode`.
    pub label: &'static str,
}

/// The nodes of the reference cluster.
pub const NODES: [NodeSpec; 4] = [
    NodeSpec { name: "myk8s-control-plane", host: 2, block: 0, label: "control-plane" },
    NodeSpec { name: "myk8s-worker", host: 3, block: 3, label: "worker1" },
    NodeSpec { name: "myk8s-worker2", host: 5, block: 1, label: "worker2" },
    NodeSpec { name: "myk8s-worker3", host: 4, block: 2, label: "worker3" },
];

/// The node that runs the control plane.
pub const CONTROL_PLANE: &str = NODES[0].name;
/// The client outside the cluster, on the node network.
pub const OUTSIDE: &str = "mypc";
/// The namespace of the bridge, which is the nodes' default gateway.
pub const BRIDGE: &str = "bridge";
/// Gateway of the node network.
pub const GATEWAY: Dual = node_network(1);
/// Addresses of [`OUTSIDE`].
pub const OUTSIDE_ADDRESS: Dual = node_network(100);
/// Prefix lengths of the node network.
pub const NODE_PREFIX: (u8, u8) = (16, 64);
/// Prefix lengths of a node's pod ranges.
pub const POD_PREFIX: (u8, u8) = (24, 64);
/// Ranges of the Services' addresses.
pub const SERVICE_RANGES: [&str; 2] = ["10.200.1.0/24", "fd00:10:200:1::/112"];
/// Ranges of all pods.
pub const POD_RANGES: [&str; 2] = ["10.10.0.0/16", "fd00:10:10::/48"];
/// MTU of every link.
pub const MTU: u32 = 1500;

impl NodeSpec {
    /// The node's own addresses.
    pub const fn address(&self) -> Dual {
        node_network(self.host)
    }

    /// Address number `index` of the node's pod ranges; 1 is the gateway.
    pub const fn pod(&self, index: u8) -> Dual {
        Dual {
            v4: Ipv4Addr::new(10, 10, self.block, index),
            v6: Ipv6Addr::new(0xfd00, 0x10, 0x10, self.block as u16, 0, 0, 0, index as u16),
        }
    }

    /// The node's pod ranges.
    pub fn pod_ranges(&self) -> [String; 2] {
        let Dual { v4, v6 } = self.pod(0);
        [format!("{v4}/{}", POD_PREFIX.0), format!("{v6}/{}", POD_PREFIX.1)]
    }

    /// The name without that of the cluster, as pods carry it: `worker2`.
    pub fn short(&self) -> &'static str {
        self.name.strip_prefix("myk8s-").unwrap_or(self.name)
    }
}

/// An address of the node network by its last byte. Addresses of both families end in the same
/// digits, as they do in a fresh kind cluster.
const fn node_network(host: u8) -> Dual {
    let low = if host == 100 { 0x100 } else { host as u16 };
    Dual {
        v4: Ipv4Addr::new(172, 18, 0, host),
        v6: Ipv6Addr::new(0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, low),
    }
}

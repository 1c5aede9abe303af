//! The reference clusters: their nodes, addresses and ranges.

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

    /// The same with other last bytes.
    const fn with_last(self, v4: u8, v6: u16) -> Self {
        let v4 = self.v4.to_bits() & !0xff | v4 as u32;
        let v6 = self.v6.to_bits() & !0xffff | v6 as u128;
        Self { v4: Ipv4Addr::from_bits(v4), v6: Ipv6Addr::from_bits(v6) }
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

/// How pods are connected to their nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// As kindnet leaves a node: pods by the plugin ptp, routes to the pods of all other nodes.
    Kindnet,
    /// By the plugins that the agent has the container runtime call; all routing is the agent's.
    Agent,
    /// As Calico connects pods; the way to the pods of other nodes is left to the agent.
    Calico,
}

/// A cluster.
#[derive(Debug)]
pub struct Topology {
    /// Its name.
    pub name: &'static str,
    /// Its nodes, the one with the control plane first; the second and third share a subnet.
    pub nodes: [NodeSpec; 4],
    /// The networks of the nodes, joined by one router.
    pub networks: &'static [Network],
    /// Addresses of [`OUTSIDE`], in the first network.
    pub outside: Dual,
    /// Ranges of all pods.
    pub pod_ranges: [&'static str; 2],
    /// MTU of the networks.
    pub mtu: u32,
    /// MTU of pods.
    pub pod_mtu: u32,
    /// How pods are connected.
    pub wiring: Wiring,
}

/// A network of nodes.
#[derive(Debug)]
pub struct Network {
    /// Its gateway: the router that joins the networks.
    pub gateway: Dual,
    /// Lengths of its prefixes.
    pub prefix: (u8, u8),
}

/// What a node of the cluster is called and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Name of the Node object.
    pub name: &'static str,
    /// The name without that of the cluster, as pods carry it: `worker2`.
    short: &'static str,
    /// Value of the label `mynode`.
    pub label: &'static str,
    /// Its addresses.
    address: Dual,
    /// Number of its network.
    pub network: usize,
    /// First addresses of its pod ranges.
    pods: Dual,
}

impl NodeSpec {
    /// The node's own addresses.
    pub const fn address(&self) -> Dual {
        self.address
    }

    /// Address number `index` of the node's pod ranges; 1 is the gateway where ptp connects pods.
    pub const fn pod(&self, index: u8) -> Dual {
        self.pods.with_last(index, index as u16)
    }

    /// The node's pod ranges.
    pub fn pod_ranges(&self) -> [String; 2] {
        let Dual { v4, v6 } = self.pods;
        [format!("{v4}/{}", POD_PREFIX.0), format!("{v6}/{}", POD_PREFIX.1)]
    }

    /// The name without that of the cluster.
    pub fn short(&self) -> &'static str {
        self.short
    }
}

/// The client outside the cluster, on the first node network.
pub const OUTSIDE: &str = "mypc";
/// The namespace of the bridges, which are the nodes' default gateways.
pub const BRIDGE: &str = "bridge";
/// Prefix lengths of a node's pod ranges.
pub const POD_PREFIX: (u8, u8) = (24, 64);
/// Ranges of the Services' addresses.
pub const SERVICE_RANGES: [&str; 2] = ["10.200.1.0/24", "fd00:10:200:1::/112"];

/// The nodes of [`MYK8S`].
pub const NODES: [NodeSpec; 4] = [
    kind_node("myk8s-control-plane", "control-plane", "control-plane", 2, 0),
    kind_node("myk8s-worker", "worker", "worker1", 3, 3),
    kind_node("myk8s-worker2", "worker2", "worker2", 5, 1),
    kind_node("myk8s-worker3", "worker3", "worker3", 4, 2),
];
/// Gateway of the node network of [`MYK8S`].
pub const GATEWAY: Dual = KIND.with_last(1, 1);
/// Addresses of [`OUTSIDE`] in [`MYK8S`].
pub const OUTSIDE_ADDRESS: Dual = KIND.with_last(100, 0x100);
/// Ranges of all pods of [`MYK8S`].
pub const POD_RANGES: [&str; 2] = ["10.10.0.0/16", "fd00:10:10::/48"];

/// The kind cluster `myk8s`.
pub static MYK8S: Topology = Topology {
    name: "myk8s",
    nodes: NODES,
    networks: &[Network { gateway: GATEWAY, prefix: (16, 64) }],
    outside: OUTSIDE_ADDRESS,
    pod_ranges: POD_RANGES,
    mtu: 1500,
    pod_mtu: 1500,
    wiring: Wiring::Kindnet,
};

/// The same without a CNI: the pods' network is ours too.
pub static ALONE: Topology = Topology {
    name: "myk8s-alone",
    nodes: NODES,
    networks: &[Network { gateway: GATEWAY, prefix: (16, 64) }],
    outside: OUTSIDE_ADDRESS,
    pod_ranges: POD_RANGES,
    mtu: 1500,
    pod_mtu: 1500,
    wiring: Wiring::Agent,
};

/// Calico's IPIP cluster: two subnets and a router that knows nothing of pods.
pub static CALICO: Topology = Topology {
    name: "calico",
    nodes: [
        calico_node("k8s-m", "m", 10, 10, 116),
        calico_node("k8s-w1", "w1", 10, 101, 158),
        calico_node("k8s-w2", "w2", 10, 102, 184),
        calico_node("k8s-w0", "w0", 20, 100, 34),
    ],
    networks: &[
        Network { gateway: calico_network(10, 1), prefix: (24, 64) },
        Network { gateway: calico_network(20, 1), prefix: (24, 64) },
    ],
    outside: calico_network(10, 200),
    pod_ranges: ["172.16.0.0/16", "fd00:172:16::/48"],
    mtu: 9001,
    pod_mtu: 8981,
    wiring: Wiring::Calico,
};

const KIND: Dual = Dual {
    v4: Ipv4Addr::new(172, 18, 0, 0),
    v6: Ipv6Addr::new(0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 0),
};

/// Addresses of both families end in the same digits, as they do in a fresh kind cluster.
const fn kind_node(
    name: &'static str,
    short: &'static str,
    label: &'static str,
    host: u8,
    block: u8,
) -> NodeSpec {
    let pods = Dual {
        v4: Ipv4Addr::new(10, 10, block, 0),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x10, block as u16, 0, 0, 0, 0),
    };
    NodeSpec { name, short, label, address: KIND.with_last(host, host as u16), network: 0, pods }
}

const fn calico_node(
    name: &'static str,
    short: &'static str,
    subnet: u8,
    host: u8,
    block: u8,
) -> NodeSpec {
    let pods = Dual {
        v4: Ipv4Addr::new(172, 16, block, 0),
        v6: Ipv6Addr::new(0xfd00, 0x172, 0x16, block as u16, 0, 0, 0, 0),
    };
    let network = if subnet == 10 { 0 } else { 1 };
    NodeSpec { name, short, label: short, address: calico_network(subnet, host), network, pods }
}

const fn calico_network(subnet: u8, host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(192, 168, subnet, host),
        v6: Ipv6Addr::new(0xfd00, 0x192, 0x168, subnet as u16, 0, 0, 0, host as u16),
    }
}

//! Links, addresses and routes, as kind and the ptp plugin leave them, or as Calico does.

use crate::{
    proto::Op,
    space::Space,
    topology::{BRIDGE, Dual, Network, NodeSpec, POD_PREFIX, Topology, Wiring},
};
use anyhow::Result;
use std::fmt::Write as _;

/// Settings of every namespace, before it has links: no waiting for duplicate addresses.
const COMMON: [(&str, &str); 4] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
];
/// Settings of a node, as kind has them.
const NODE: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
];

/// Settings of the client outside: a node that passes a packet on to another node on the same network
/// advises the client to go there directly, which would lead past the translation.
const CLIENT: [(&str, &str); 2] =
    [("net/ipv4/conf/all/accept_redirects", "0"), ("net/ipv4/conf/default/accept_redirects", "0")];

/// Makes the bridges that are the node networks, their gateways, and the router between them.
pub(crate) fn bridge(space: &Space, topology: &Topology) -> Result<()> {
    settings(space, &COMMON)?;
    settings(space, &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    let mut lines = "link set lo up\n".to_owned();
    for (number, Network { gateway: Dual { v4, v6 }, prefix: (p4, p6) }) in
        topology.networks.iter().enumerate()
    {
        write!(
            lines,
            "link add br{number} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0\n\
             addr add {v4}/{p4} dev br{number}\n\
             addr add {v6}/{p6} dev br{number} nodad\n\
             link set br{number} up\n",
            mtu = topology.mtu
        )?;
    }
    space.ip(&lines)
}

/// Connects a node to its network; routes to the other nodes' pods included where the CNI has made
/// them.
pub(crate) fn node(
    space: &Space,
    bridge: &Space,
    topology: &Topology,
    spec: &NodeSpec,
) -> Result<()> {
    settings(space, &COMMON)?;
    settings(space, &NODE)?;
    let mut lines = uplink(bridge, topology, spec.network, spec.short(), spec.address());
    if topology.wiring == Wiring::Kindnet {
        for other in topology.nodes.iter().filter(|other| other.name != spec.name) {
            let Dual { v4, v6 } = other.address();
            let [range4, range6] = other.pod_ranges();
            writeln!(lines, "route add {range4} via {v4} dev eth0")?;
            writeln!(lines, "route add {range6} via {v6} dev eth0")?;
        }
    }
    space.ip(&lines)?;
    attach(bridge, spec.network, spec.short())?;
    settings(space, &[("net/ipv4/conf/eth0/rp_filter", "0")])
}

/// Connects the client outside the cluster to the first node network.
pub(crate) fn outside(space: &Space, bridge: &Space, topology: &Topology) -> Result<()> {
    settings(space, &COMMON)?;
    settings(space, &CLIENT)?;
    space.ip(&uplink(bridge, topology, 0, space.name(), topology.outside))?;
    attach(bridge, 0, space.name())
}

/// Prepares a pod's namespace for whoever connects it.
pub(crate) fn prepare_pod(pod: &Space) -> Result<()> {
    settings(pod, &COMMON)
}

/// Connects a pod to its node by a veth pair. `device` is the name of the node's end.
pub(crate) fn pod(
    pod: &Space,
    node: &Space,
    topology: &Topology,
    spec: &NodeSpec,
    address: Dual,
    device: &str,
) -> Result<()> {
    prepare_pod(pod)?;
    let (at_node, in_pod) = match topology.wiring {
        Wiring::Kindnet | Wiring::Agent => ptp(spec, address, device),
        Wiring::Calico => calico(address, device),
    };
    let mtu = topology.pod_mtu;
    node.ip(&format!(
        "link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pid}\n{at_node}",
        pid = pod.pid(),
    ))?;
    pod.ip(&format!("link set lo up\n{in_pod}"))
}

/// As the plugin ptp does: the gateway's address on the node's end of each pair, a route of scope host
/// to the pod, and in the pod everything by way of the gateway, its own subnet included.
fn ptp(spec: &NodeSpec, address: Dual, device: &str) -> (String, String) {
    let gateway = spec.pod(1);
    let (g4, g6, a4, a6) = (gateway.v4, gateway.v6, address.v4, address.v6);
    let at_node = format!(
        "addr add {g4}/32 dev {device}\n\
         addr add {g6}/128 dev {device} nodad\n\
         link set {device} up\n\
         route add {a4}/32 dev {device} scope host\n\
         route add {a6}/128 dev {device}\n"
    );
    let (p4, p6) = POD_PREFIX;
    let [range4, range6] = spec.pod_ranges();
    let in_pod = format!(
        "addr add {a4}/{p4} dev eth0 noprefixroute\n\
         addr add {a6}/{p6} dev eth0 nodad noprefixroute\n\
         link set eth0 up\n\
         route add {g4}/32 dev eth0 scope link src {a4}\n\
         route add {range4} via {g4} dev eth0 src {a4}\n\
         route add default via {g4} dev eth0\n\
         route add {g6}/128 dev eth0 src {a6}\n\
         route add {range6} via {g6} dev eth0 src {a6}\n\
         route add default via {g6} dev eth0\n"
    );
    (at_node, in_pod)
}

/// As Calico does: host routes to the pod, in the pod a gateway that no device has.
fn calico(address: Dual, device: &str) -> (String, String) {
    const MAC: &str = "ee:ee:ee:ee:ee:ee";
    let Dual { v4, v6 } = address;
    let at_node = format!(
        "link set {device} address {MAC}\n\
         link set {device} up\n\
         route add {v4}/32 dev {device} scope link\n\
         route add {v6}/128 dev {device}\n"
    );
    let in_pod = format!(
        "addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         neigh add 169.254.1.1 lladdr {MAC} dev eth0\n\
         neigh add fe80::1 lladdr {MAC} dev eth0\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::1 dev eth0\n"
    );
    (at_node, in_pod)
}

fn uplink(
    bridge: &Space,
    topology: &Topology,
    network: usize,
    name: &str,
    address: Dual,
) -> String {
    let Dual { v4, v6 } = address;
    let Network { gateway, prefix: (p4, p6) } = &topology.networks[network];
    format!(
        "link set lo up\n\
         link add eth0 mtu {mtu} type veth peer name {port} mtu {mtu} netns {pid}\n\
         addr add {v4}/{p4} dev eth0\n\
         addr add {v6}/{p6} dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {g4} dev eth0\n\
         route add default via {g6} dev eth0\n",
        mtu = topology.mtu,
        port = port(name),
        pid = bridge.pid(),
        g4 = gateway.v4,
        g6 = gateway.v6,
    )
}

/// Puts a node's link into the bridge of its network.
fn attach(bridge: &Space, network: usize, name: &str) -> Result<()> {
    debug_assert_eq!(bridge.name(), BRIDGE);
    let port = port(name);
    bridge.ip(&format!("link set {port} master br{network}\nlink set {port} up\n"))
}

/// Has what comes to a node look as if it had come by a wire: with its checksums made, and no longer than
/// the link takes. XDP has no use for anything else. The bridge's end of the link is made ready for
/// frames that the node's end redirects; for those that its driver sends back it would need a program of
/// its own (`veth_xdp_flush` of Linux 6.18 wakes nobody without one).
pub(crate) fn like_cable(bridge: &Space, name: &str, on: bool) -> Result<()> {
    let (offload, receive) = if on { ("off", "on") } else { ("on", "off") };
    bridge.output("ethtool", &["-K", &port(name), "tx", offload, "gro", receive]).map(drop)
}

/// Has the bridge's end of a link refuse every frame from the node that has more than 86 bytes, or take
/// them again. To the node's own end, its device, this makes no difference.
pub(crate) fn refuse(bridge: &Space, topology: &Topology, spec: &NodeSpec, on: bool) -> Result<()> {
    /// The least that an Ethernet device may have; an Ethernet header and a VLAN tag come on top.
    const LEAST_MTU: u32 = 68;
    // A bridge whose own MTU has been set does not follow that of its ports.
    bridge.ip(&format!(
        "link set br{network} mtu {mtu}\nlink set {port} mtu {port_mtu}\n",
        network = spec.network,
        mtu = topology.mtu,
        port = port(spec.short()),
        port_mtu = if on { LEAST_MTU } else { topology.mtu },
    ))
}

/// Name of the bridge's end of a link; the kernel takes 15 bytes.
fn port(name: &str) -> String {
    format!("p-{}", name.chars().take(13).collect::<String>())
}

fn settings(space: &Space, values: &[(&str, &str)]) -> Result<()> {
    let values = values.iter().map(|(path, value)| ((*path).into(), (*value).into())).collect();
    space.tell(Op::Sysctl(values))
}

//! Links, addresses and routes, as kind and the ptp plugin leave them.

use crate::{
    proto::Op,
    space::Space,
    topology::{
        BRIDGE, Dual, GATEWAY, MTU, NODE_PREFIX, NODES, NodeSpec, OUTSIDE_ADDRESS, POD_PREFIX,
    },
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

/// Makes the bridge that is the node network and its gateway.
pub(crate) fn bridge(space: &Space) -> Result<()> {
    settings(space, &COMMON)?;
    settings(space, &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    let Dual { v4, v6 } = GATEWAY;
    let (p4, p6) = NODE_PREFIX;
    space.ip(&format!(
        "link set lo up\n\
         link add br0 mtu {MTU} type bridge forward_delay 0 mcast_snooping 0\n\
         addr add {v4}/{p4} dev br0\n\
         addr add {v6}/{p6} dev br0 nodad\n\
         link set br0 up\n"
    ))
}

/// Connects a node to the node network; routes to the other nodes' pods included.
pub(crate) fn node(space: &Space, bridge: &Space, spec: &NodeSpec) -> Result<()> {
    settings(space, &COMMON)?;
    settings(space, &NODE)?;
    let mut lines = uplink(bridge, spec.short(), spec.address());
    for other in NODES.iter().filter(|other| other.name != spec.name) {
        let Dual { v4, v6 } = other.address();
        let [range4, range6] = other.pod_ranges();
        writeln!(lines, "route add {range4} via {v4} dev eth0")?;
        writeln!(lines, "route add {range6} via {v6} dev eth0")?;
    }
    space.ip(&lines)?;
    attach(bridge, spec.short())?;
    settings(space, &[("net/ipv4/conf/eth0/rp_filter", "0")])
}

/// Connects the client outside the cluster to the node network.
pub(crate) fn outside(space: &Space, bridge: &Space) -> Result<()> {
    settings(space, &COMMON)?;
    settings(space, &CLIENT)?;
    space.ip(&uplink(bridge, space.name(), OUTSIDE_ADDRESS))?;
    attach(bridge, space.name())
}

/// Connects a pod to its node by a veth pair, as the plugin ptp does: the gateway's address on the
/// node's end of each pair, a route of scope host to the pod, and in the pod everything by way of
/// the gateway, its own subnet included. `device` is the name of the node's end.
pub(crate) fn pod(
    pod: &Space,
    node: &Space,
    spec: &NodeSpec,
    address: Dual,
    device: &str,
) -> Result<()> {
    settings(pod, &COMMON)?;
    let gateway = spec.pod(1);
    let (g4, g6, a4, a6) = (gateway.v4, gateway.v6, address.v4, address.v6);
    node.ip(&format!(
        "link add {device} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {pid}\n\
         addr add {g4}/32 dev {device}\n\
         addr add {g6}/128 dev {device} nodad\n\
         link set {device} up\n\
         route add {a4}/32 dev {device} scope host\n\
         route add {a6}/128 dev {device}\n",
        pid = pod.pid(),
    ))?;
    let (p4, p6) = POD_PREFIX;
    let [range4, range6] = spec.pod_ranges();
    pod.ip(&format!(
        "link set lo up\n\
         addr add {a4}/{p4} dev eth0 noprefixroute\n\
         addr add {a6}/{p6} dev eth0 nodad noprefixroute\n\
         link set eth0 up\n\
         route add {g4}/32 dev eth0 scope link src {a4}\n\
         route add {range4} via {g4} dev eth0 src {a4}\n\
         route add default via {g4} dev eth0\n\
         route add {g6}/128 dev eth0 src {a6}\n\
         route add {range6} via {g6} dev eth0 src {a6}\n\
         route add default via {g6} dev eth0\n"
    ))
}

fn uplink(bridge: &Space, name: &str, address: Dual) -> String {
    let Dual { v4, v6 } = address;
    let (p4, p6) = NODE_PREFIX;
    format!(
        "link set lo up\n\
         link add eth0 mtu {MTU} type veth peer name {port} mtu {MTU} netns {pid}\n\
         addr add {v4}/{p4} dev eth0\n\
         addr add {v6}/{p6} dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {g4} dev eth0\n\
         route add default via {g6} dev eth0\n",
        port = port(name),
        pid = bridge.pid(),
        g4 = GATEWAY.v4,
        g6 = GATEWAY.v6,
    )
}

/// Puts a node's link into the bridge.
fn attach(bridge: &Space, name: &str) -> Result<()> {
    debug_assert_eq!(bridge.name(), BRIDGE);
    bridge.ip(&format!("link set {port} master br0\nlink set {port} up\n", port = port(name)))
}

/// Name of the bridge's end of a link; the kernel takes 15 bytes.
fn port(name: &str) -> String {
    format!("p-{}", name.chars().take(13).collect::<String>())
}

fn settings(space: &Space, values: &[(&str, &str)]) -> Result<()> {
    let values = values.iter().map(|(path, value)| ((*path).into(), (*value).into())).collect();
    space.tell(Op::Sysctl(values))
}

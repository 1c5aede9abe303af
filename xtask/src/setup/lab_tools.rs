//! The programs that the lab, its tests and the README's walk-through use.

use crate::paths;

/// A program and the package that brings it.
pub(crate) struct Tool {
    /// Its name, or its path where that is in nobody's `PATH`.
    command: &'static str,
    /// The Debian package.
    pub(crate) package: &'static str,
    /// What it is for.
    pub(crate) why: &'static str,
}

const TOOLS: [Tool; 10] = [
    tool("ip", "iproute2", "namespaces, links and routes, to look at by hand"),
    tool("nsenter", "util-linux", "commands inside a node or pod"),
    tool("iptables", "iptables", "shows that no node has a rule; kube-proxy's iptables mode"),
    tool("nft", "nftables", "the same for nftables"),
    tool("ethtool", "ethtool", "checksum offload on and off"),
    tool("curl", "curl", "requests to Services"),
    tool("ping", "iputils-ping", "ICMP through the datapath"),
    tool("traceroute", "traceroute", "ICMP errors through the datapath"),
    tool("tcpdump", "tcpdump", "what is on the wire"),
    tool(
        "/usr/lib/cni/ptp",
        "containernetworking-plugins",
        "ptp, host-local and loopback connect pods where the agent is the CNI",
    ),
];

const fn tool(command: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool { command, package, why }
}

/// Those that are not installed.
pub(crate) fn missing() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| paths::find_command(tool.command).is_none()).collect()
}

/// The packages that bring them.
pub(crate) fn packages(tools: &[&Tool]) -> Vec<String> {
    tools.iter().map(|tool| tool.package.to_owned()).collect()
}

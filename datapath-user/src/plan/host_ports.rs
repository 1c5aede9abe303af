//! Host ports: ports of this node that lead to a port of one of its pods. What a pod gets is what
//! the portmap plugin would give it.

use super::{
    Network,
    compile::{FrontendPlan, ListKey, PortPlan, ServicePlan, ip_protocol},
};
use crate::model::{Family, HostPort, Pod, TrafficPolicy};
use datapath_common::{Addr, Be16, FrontendFlags, FrontendKey, FrontendKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A pod's host ports, and the frontends that it goes without since a node port has them.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    pub(super) plan: ServicePlan,
    pub(super) shadowed: Vec<FrontendKey>,
}

/// What the pod should have on a node with these addresses.
pub(super) fn compile_pod(
    pod: &Pod,
    addresses: &[IpAddr],
    has_node_port: impl Fn(FrontendKey) -> bool,
) -> HostPorts {
    let mut found = HostPorts::default();
    found.plan.created = pod.created;
    for host_port in pod.host_ports.iter().filter(|_| !pod.ended) {
        let mut plan = empty(host_port);
        for target in &pod.addresses {
            let keys = addresses
                .iter()
                .filter(|address| is_asked_for(host_port, **address))
                .filter(|address| address.is_ipv4() == target.is_ipv4())
                .map(|address| key(host_port, *address));
            let (shadowed, free): (Vec<_>, Vec<_>) = keys.partition(|key| has_node_port(*key));
            found.shadowed.extend(shadowed);
            add_target(&mut plan, *target, host_port, free);
        }
        let ports = &mut found.plan.ports;
        let twice = ports.iter().any(|p| p.name == plan.name && p.protocol == plan.protocol);
        if !plan.frontends.is_empty() && !twice {
            plan.sort();
            ports.push(plan);
        }
    }
    found
}

/// Leads the frontends to a pod's address, if there are any. Clients keep their addresses.
fn add_target(plan: &mut PortPlan, target: IpAddr, host_port: &HostPort, keys: Vec<FrontendKey>) {
    if keys.is_empty() {
        return;
    }
    let list = ListKey { family: Family::of(target), policy: TrafficPolicy::Cluster };
    let target = (Addr::from(target), Be16::new(host_port.container_port.get()));
    plan.backends.push(target);
    plan.lists.push((list, vec![target]));
    plan.frontends.extend(keys.into_iter().map(|key| FrontendPlan {
        key,
        kind: FrontendKind::HOST_PORT,
        flags: FrontendFlags::default(),
        inside: list,
        outside: list,
    }));
}

fn empty(host_port: &HostPort) -> PortPlan {
    PortPlan {
        name: name(host_port).into(),
        protocol: host_port.protocol,
        affinity: 0,
        maglev: false,
        backends: Vec::new(),
        lists: Vec::new(),
        ranges: Vec::new(),
        frontends: Vec::new(),
        no_local: Vec::new(),
    }
}

/// The addresses of the node that host ports are served on: those that mean the same on every link,
/// and the loopback addresses, which only the socket hooks serve.
pub(super) fn served_addresses(network: &Network) -> Vec<IpAddr> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let linked = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let own = network.host_addresses.iter().copied().filter(|address| !linked(address));
    own.chain(loopback).collect()
}

/// Whether the host port is to be served on this address of the node.
fn is_asked_for(host_port: &HostPort, address: IpAddr) -> bool {
    host_port.address.is_none_or(|wanted| {
        wanted == address || (wanted.is_unspecified() && Family::of(wanted) == Family::of(address))
    })
}

/// What tells a pod's host ports of one protocol apart.
fn name(host_port: &HostPort) -> String {
    let port = host_port.port.get();
    match host_port.address {
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => port.to_string(),
    }
}

fn key(host_port: &HostPort, address: IpAddr) -> FrontendKey {
    let port = Be16::new(host_port.port.get());
    FrontendKey::new(address.into(), port, ip_protocol(host_port.protocol))
}

#[cfg(test)]
mod tests;

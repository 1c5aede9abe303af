//! The ways to the pods of other nodes.

use super::{
    Network, PodNetwork, Routing, Settings, Uplink,
    network::{RouteTable, add_range},
};
use crate::model::{Family, Model, Node};
use datapath_common::{Addr, Route, RouteKind, tunnel_overhead};
use ipnet::IpNet;
use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

/// How packets reach another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// As they are, to this next hop.
    Straight(IpAddr),
    /// Wrapped, to this other end.
    Tunnel(IpAddr),
}

/// A route of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The next hop.
    pub gateway: IpAddr,
    /// Index of the device that it is behind.
    pub device: u32,
    /// Largest IP packet in bytes, where it is less than the device takes.
    pub mtu: Option<u16>,
}

/// Routes of the kernel by range.
pub type KernelRoutes = BTreeMap<IpNet, Hop>;

/// This node's view of the others.
pub(super) struct Ways<'a> {
    routing: Routing,
    network: &'a Network,
    own: Option<&'a Node>,
    /// Whether nodes pass packets on to each other.
    dsr: bool,
}

impl<'a> Ways<'a> {
    pub(super) fn new(
        settings: &Settings,
        network: &'a Network,
        model: &'a Model,
        dsr: bool,
    ) -> Self {
        let own = model.node(&settings.node);
        let mut ways = Self { routing: settings.routing, network, own, dsr };
        if settings.routing == Routing::Auto && settings.sole_network {
            let near = |address| ways.is_near(address);
            let share = model.nodes().flat_map(Node::addresses).all(near);
            ways.routing = if share { Routing::Native } else { Routing::CrossSubnet };
        }
        ways
    }

    /// Who carries packets between pods, after all.
    pub(super) fn routing(&self) -> Routing {
        self.routing
    }

    /// This node's object.
    pub(super) fn own(&self) -> Option<&'a Node> {
        self.own
    }

    /// What this node's pods are connected with, once it is known. Where some nodes may be behind
    /// tunnels, packets of all pods leave room for the outer header.
    pub(super) fn pod_network(&self) -> Option<PodNetwork> {
        let uplink = self.network.uplinks.first()?;
        let has_v4 = self.network.node_address(self.own, Family::V4).is_some();
        let outer = if has_v4 { Family::V4 } else { Family::V6 };
        let overhead = tunnel_overhead(Addr::from(outer.wildcard()));
        let overhead = if self.routing.has_tunnels() { overhead } else { 0 };
        PodNetwork::new(&self.own?.pod_cidrs, uplink.mtu.saturating_sub(overhead))
    }

    /// Routes to the pods of `node` and, where the routing is ours or nodes pass packets on to each other,
    /// to the node itself. More specific ranges win by themselves; of two nodes with the same range the
    /// first has it.
    pub(super) fn add(&self, node: &Node, table: &mut RouteTable) {
        for range in &node.pod_cidrs {
            if let Some((way, uplink)) = self.to_pods(node, *range) {
                add_range(table, *range, route(way, uplink));
            } else if let Some((next_hop, uplink)) = self.by_kernel(node, *range)
                && self.dsr
            {
                let found = route(Way::Straight(next_hop), uplink);
                add_range(table, *range, Route { kind: RouteKind::FOREIGN, ..found });
            }
        }
        if !self.routing.is_ours() && !self.dsr {
            return;
        }
        for address in node.addresses() {
            add_range(table, address.into(), self.peer(node, address));
        }
    }

    /// How we carry packets to pods of another node, if we do.
    fn to_pods(&self, node: &Node, range: IpNet) -> Option<(Way, Uplink)> {
        let family = Family::of_net(range);
        let first = self.network.uplinks.first().copied();
        match self.routing {
            Routing::None => None,
            Routing::Auto => {
                let (next_hop, uplink) = self.by_kernel(node, range)?;
                Some((Way::Straight(next_hop), uplink))
            }
            Routing::Native => Some((Way::Straight(node.address(family)?), first?)),
            Routing::Ipip => Some((Way::Tunnel(self.far_end(node)?), first?)),
            Routing::CrossSubnet => match node.address(family).filter(|ip| self.is_near(*ip)) {
                Some(next_hop) => Some((Way::Straight(next_hop), first?)),
                None => Some((Way::Tunnel(self.far_end(node)?), first?)),
            },
        }
    }

    /// The way to pods of another node by which the kernel sends them straight to that node, if it does.
    fn by_kernel(&self, node: &Node, range: IpNet) -> Option<(IpAddr, Uplink)> {
        let next_hop = node.address(Family::of_net(range))?;
        let routes = &self.network.routes;
        let leads = |uplink: &&Uplink| routes.contains(&(range.trunc(), next_hop, uplink.device));
        self.network.uplinks.iter().find(leads).map(|uplink| (next_hop, *uplink))
    }

    /// What the kernel should route itself, where the routing is ours: processes of this node have
    /// packets for pods too. The stack fragments what is to be wrapped, so it must know what fits.
    pub(super) fn kernel_routes(&self, model: &Model) -> KernelRoutes {
        let mut routes = KernelRoutes::new();
        let others = model.nodes().filter(|node| Some(&node.name) != self.own.map(|own| &own.name));
        for node in others.filter(|_| self.routing.is_ours()) {
            for range in &node.pod_cidrs {
                if let Some(hop) = self.kernel_hop(node, *range) {
                    routes.entry(range.trunc()).or_insert(hop);
                }
            }
        }
        routes
    }

    /// The way to pods of another node as the kernel must see it: what is wrapped leaves by the
    /// neighbour that is next on the way to that node.
    fn kernel_hop(&self, node: &Node, range: IpNet) -> Option<Hop> {
        let (way, uplink) = self.to_pods(node, range)?;
        let device = uplink.device;
        match way {
            Way::Straight(gateway) => Some(Hop { gateway, device, mtu: None }),
            Way::Tunnel(_) => {
                let gateway = self.neighbour(node.address(Family::of_net(range))?, device)?;
                Some(Hop { gateway, device, mtu: Some(route(way, uplink).mtu) })
            }
        }
    }

    /// The neighbour by way of which an address is reached through a device.
    fn neighbour(&self, address: IpAddr, device: u32) -> Option<IpAddr> {
        if self.is_near(address) {
            return Some(address);
        }
        let candidates = self.network.routes.iter().filter(|(range, gateway, through)| {
            *through == device && gateway.is_ipv4() == address.is_ipv4() && range.contains(&address)
        });
        candidates
            .max_by_key(|(range, gateway, _)| (range.prefix_len(), Reverse(*gateway)))
            .map(|(_, gateway, _)| *gateway)
    }

    /// The entry of a node's own address. What fits is of use only where packets are passed on.
    fn peer(&self, node: &Node, address: IpAddr) -> Route {
        let next_hop = self.far_end(node).map_or(Addr::from(address).wildcard(), Addr::from);
        let (device, mtu) = match self.network.uplinks.first() {
            Some(uplink) if self.dsr => {
                (uplink.device, uplink.mtu.saturating_sub(tunnel_overhead(next_hop)))
            }
            _ => (0, 0),
        };
        Route { next_hop, device, mtu, kind: RouteKind::PEER, pad: 0 }
    }

    /// Where a tunnel to `node` ends: IPv4 where both nodes have it, since its header is smaller.
    fn far_end(&self, node: &Node) -> Option<IpAddr> {
        let both = |family: &Family| {
            self.network.node_address(self.own, *family)?;
            node.address(*family)
        };
        Family::ALL.iter().find_map(both)
    }

    /// Whether an address is in the subnet of this node: its own address with the mask that it has
    /// on its device.
    fn is_near(&self, address: IpAddr) -> bool {
        let own = self.network.node_address(self.own, Family::of(address));
        let mut subnets = self.network.uplink_addresses.iter();
        subnets.any(|subnet| Some(subnet.addr()) == own && subnet.contains(&address))
    }
}

fn route(way: Way, uplink: Uplink) -> Route {
    let Uplink { device, mtu, mac: _ } = uplink;
    match way {
        Way::Straight(next_hop) => {
            let next_hop = next_hop.into();
            Route { next_hop, device, mtu, kind: RouteKind::REMOTE, pad: 0 }
        }
        Way::Tunnel(far_end) => {
            let next_hop = Addr::from(far_end);
            let mtu = mtu.saturating_sub(tunnel_overhead(next_hop));
            Route { next_hop, device, mtu, kind: RouteKind::TUNNEL, pad: 0 }
        }
    }
}

//! The node's own network: which packets go where.

use super::{Settings, addresses::prefixes, routing::Ways};
use crate::model::{Family, Model, Node};
use datapath_common::{Addr, Address, AddressKind, LpmKey, Route, RouteKind};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

/// A device towards the other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uplink {
    /// Its index.
    pub device: u32,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// Where a pod of this node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodAddress {
    /// Index of the node's end of its interface.
    pub device: u32,
    /// Its MAC address; zeros if not known.
    pub mac: [u8; 6],
    /// The address that it sees as its node.
    pub gateway: Option<IpAddr>,
}

/// The node's end of a pod's interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodDevice {
    /// Its index.
    pub device: u32,
    /// Its name.
    pub name: String,
    /// Name of the bridge that it is a port of.
    pub bridge: Option<String>,
}

/// What the kernel knows of the node's network at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Network {
    /// Devices towards the other nodes; the one with the node's address first.
    pub uplinks: Vec<Uplink>,
    /// Addresses of the first uplink, with the length of its subnet's prefix.
    pub uplink_addresses: Vec<IpNet>,
    /// The node's pods.
    pub pods: BTreeMap<IpAddr, PodAddress>,
    /// The node's ends of its pods' interfaces.
    pub pod_devices: Vec<PodDevice>,
    /// The node's own addresses, without loopback ones.
    pub host_addresses: BTreeSet<IpAddr>,
    /// Routes of the kernel's main table that have a next hop: range, next hop, device.
    pub routes: HashSet<(IpNet, IpAddr, u32)>,
}

impl Network {
    /// The node's address of one family: that of the Node object, else that of the uplink.
    pub fn node_address(&self, node: Option<&Node>, family: Family) -> Option<IpAddr> {
        node.and_then(|node| node.address(family)).or_else(|| {
            self.uplink_addresses
                .iter()
                .map(IpNet::addr)
                .find(|address| Family::of(*address) == family && !is_link_local(*address))
        })
    }

    /// The node's addresses as kube-proxy would name them, one per family.
    pub(super) fn primary(&self, settings: &Settings, model: &Model) -> Vec<IpAddr> {
        let node = model.node(&settings.node);
        let given = |family| settings.primary.filter(|address| Family::of(*address) == family);
        Family::ALL
            .iter()
            .filter_map(|family| given(*family).or_else(|| self.node_address(node, *family)))
            .collect()
    }

    /// `ADDRESSES`.
    pub(super) fn addresses(&self, settings: &Settings, model: &Model) -> HashMap<Addr, Address> {
        let primary = self.primary(settings, model);
        let pods = self.pods.iter().map(|(ip, pod)| {
            let PodAddress { device, mac, gateway } = *pod;
            let gateway = gateway.map_or(Addr::from(*ip).wildcard(), Addr::from);
            (Addr::from(*ip), Address { gateway, device, mac, kind: AddressKind::POD, flags: 0 })
        });
        let hosts = self.host_addresses.iter().map(|ip| {
            let served = settings.node_port_addresses.include(*ip, &primary);
            let address = Address {
                gateway: Addr::from(*ip).wildcard(),
                device: 0,
                mac: [0; 6],
                kind: AddressKind::HOST,
                flags: if served { Address::NODE_PORT } else { 0 },
            };
            (Addr::from(*ip), address)
        });
        pods.chain(hosts).collect()
    }

    /// `ROUTES`.
    pub(super) fn routes(&self, ways: &Ways<'_>, model: &Model) -> RouteTable {
        let mut table = RouteTable::new();
        let entry = |range: IpNet, kind| {
            let next_hop = Addr::from(range.network()).wildcard();
            Route { next_hop, device: 0, mtu: 0, kind, pad: 0 }
        };
        for range in model.service_cidrs().flat_map(|object| &object.cidrs) {
            add_range(&mut table, *range, entry(*range, RouteKind::SERVICE));
        }
        let own = ways.own();
        for node in model.nodes().filter(|node| Some(&node.name) != own.map(|own| &own.name)) {
            ways.add(node, &mut table);
        }
        let ours = ways.routing().is_ours();
        if ours || carries_pods(&table) {
            let ranges = own.into_iter().flat_map(|own| &own.pod_cidrs);
            // With tunnels, what is somewhere else has a route of its own here.
            let routed = ways.routing().has_tunnels();
            for range in ranges.filter(|range| routed || !self.is_shared(**range)) {
                add_range(&mut table, *range, entry(*range, RouteKind::LOCAL));
            }
        }
        table
    }

    /// Whether parts of the range are somewhere else as the kernel has it, as where a network plugin
    /// gives out addresses of its own accord.
    fn is_shared(&self, cidr: IpNet) -> bool {
        self.routes.iter().any(|(range, _, _)| cidr.contains(range))
    }
}

/// Contents of `ROUTES`.
pub(super) type RouteTable = HashMap<LpmKey, Route>;

/// Adds a range that the table does not have yet.
pub(super) fn add_range(table: &mut RouteTable, range: IpNet, route: Route) {
    for key in prefixes(range) {
        table.entry(key).or_insert(route);
    }
}

/// Whether pods are carried by us anywhere.
pub(super) fn carries_pods(table: &RouteTable) -> bool {
    table.values().any(|route| matches!(route.kind, RouteKind::REMOTE | RouteKind::TUNNEL))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

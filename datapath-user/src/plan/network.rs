//! The node's own network: which packets go where.

use super::{Routing, Settings, addresses::prefixes};
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
    /// Addresses of the first uplink.
    pub uplink_addresses: Vec<IpAddr>,
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
                .copied()
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
    pub(super) fn routes(&self, settings: &Settings, model: &Model) -> HashMap<LpmKey, Route> {
        let mut routes: HashMap<LpmKey, Route> = HashMap::new();
        let mut add = |range: IpNet, next_hop: Addr, device: u32, mtu: u16, kind: RouteKind| {
            for key in prefixes(range) {
                routes.insert(key, Route { next_hop, device, mtu, kind, pad: 0 });
            }
        };
        for cidr in model.service_cidrs().flat_map(|object| &object.cidrs) {
            let any = Addr::from(cidr.network()).wildcard();
            add(*cidr, any, 0, 0, RouteKind::SERVICE);
        }
        let mut carried = false;
        for node in model.nodes().filter(|node| node.name != settings.node) {
            for cidr in &node.pod_cidrs {
                if let Some((next_hop, uplink)) = self.carry(settings.routing, node, *cidr) {
                    let Uplink { device, mtu, mac: _ } = uplink;
                    add(*cidr, next_hop.into(), device, mtu, RouteKind::REMOTE);
                    carried = true;
                }
            }
        }
        if carried || settings.routing == Routing::Native {
            let own = model.node(&settings.node).into_iter().flat_map(|node| &node.pod_cidrs);
            for cidr in own.filter(|cidr| !self.is_shared(**cidr)) {
                let any = Addr::from(cidr.network()).wildcard();
                add(*cidr, any, 0, 0, RouteKind::LOCAL);
            }
        }
        routes
    }

    /// Whether parts of the range are somewhere else as the kernel has it, as where a network plugin
    /// gives out addresses of its own accord.
    fn is_shared(&self, cidr: IpNet) -> bool {
        self.routes.iter().any(|(range, _, _)| cidr.contains(range))
    }

    /// How we carry packets to pods of another node, if we do.
    fn carry(&self, routing: Routing, node: &Node, cidr: IpNet) -> Option<(IpAddr, Uplink)> {
        let next_hop = node.address(Family::of_net(cidr))?;
        let uplink = match routing {
            Routing::None => None,
            Routing::Native => self.uplinks.first(),
            Routing::Auto => self
                .uplinks
                .iter()
                .find(|uplink| self.routes.contains(&(cidr.trunc(), next_hop, uplink.device))),
        }?;
        Some((next_hop, *uplink))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

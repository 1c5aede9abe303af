//! The kernel's messages, kept as tables.

use super::{Device, KernelRoute, Snapshot};
use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What a message did to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// All of it is known.
    Told,
    /// The kernel removes more than it tells of: only a full list knows.
    Untold,
}

/// What tells routes of one prefix apart.
type RouteKey = (IpNet, u32, u8);

/// A neighbour: device and address.
type NeighbourKey = (u32, IpAddr);

/// All tables.
#[derive(Debug, Default)]
pub(super) struct State {
    devices: BTreeMap<u32, Device>,
    /// Devices and their addresses, with the lengths of the prefixes.
    addresses: BTreeMap<(u32, IpAddr), u8>,
    routes: BTreeMap<RouteKey, Vec<KernelRoute>>,
    neighbours: BTreeMap<NeighbourKey, [u8; 6]>,
}

impl State {
    /// Takes in one message; `replace` is the flag of route messages that says that the route takes
    /// the place of those with the same key.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage, replace: bool) -> Effect {
        match message {
            RouteNetlinkMessage::NewLink(link) => return self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => {
                self.devices.remove(&link.header.index);
                return Effect::Untold;
            }
            RouteNetlinkMessage::NewAddress(message) => {
                self.addresses.extend(address(message));
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some((key, _)) = address(message) {
                    self.addresses.remove(&key);
                }
                return Effect::Untold;
            }
            RouteNetlinkMessage::NewRoute(message) => self.new_route(message, replace),
            RouteNetlinkMessage::DelRoute(message) => self.del_route(message),
            RouteNetlinkMessage::NewNeighbour(message) => match neighbour(message) {
                Some((key, Some(mac))) => drop(self.neighbours.insert(key, mac)),
                Some((key, None)) => drop(self.neighbours.remove(&key)),
                None => {}
            },
            RouteNetlinkMessage::DelNeighbour(message) => {
                if let Some((key, _)) = neighbour(message) {
                    self.neighbours.remove(&key);
                }
            }
            _ => {}
        }
        Effect::Told
    }

    /// The state for others to read.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut addresses: BTreeMap<IpAddr, BTreeSet<u32>> = BTreeMap::new();
        let mut prefix_lengths = BTreeMap::new();
        for ((device, address), prefix_length) in &self.addresses {
            addresses.entry(*address).or_default().insert(*device);
            prefix_lengths.insert(*address, *prefix_length);
        }
        let is_up =
            |route: &&KernelRoute| self.devices.get(&route.device).is_some_and(|device| device.up);
        Snapshot {
            devices: self.devices.clone(),
            addresses,
            prefix_lengths,
            routes: self.routes.values().flatten().filter(is_up).cloned().collect(),
            neighbours: self.neighbours.clone(),
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Effect {
        // Bridges tell of their ports with messages of another family that lack most of it.
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::Told;
        }
        let Some(device) = device(message) else { return Effect::Told };
        let up = device.up;
        let before = self.devices.insert(device.index, device);
        // IPv4 routes go with a device that goes down, without a message.
        if before.is_some_and(|before| before.up && !up) { Effect::Untold } else { Effect::Told }
    }

    fn new_route(&mut self, message: &RouteMessage, replace: bool) {
        let Some((key, routes)) = routes(message) else { return };
        let known = self.routes.entry(key).or_default();
        if replace {
            known.clear();
        }
        for route in routes {
            if !known.contains(&route) {
                known.push(route);
            }
        }
    }

    fn del_route(&mut self, message: &RouteMessage) {
        let Some((key, routes)) = routes(message) else { return };
        if let Some(known) = self.routes.get_mut(&key) {
            known.retain(|route| !routes.contains(route));
            if known.is_empty() {
                self.routes.remove(&key);
            }
        }
    }
}

/// The device of a message.
pub(in crate::datapath) fn device(message: &LinkMessage) -> Option<Device> {
    let flags = message.header.flags;
    let mut device = Device {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        pair: false,
        peer_elsewhere: false,
        loopback: flags.contains(LinkFlags::Loopback),
        bridge: None,
        up: flags.contains(LinkFlags::Up),
    };
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                device.mac = bytes.as_slice().try_into().unwrap_or_default();
            }
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(bridge) => device.bridge = Some(*bridge),
            LinkAttribute::LinkInfo(infos) => {
                device.pair = infos.iter().any(|info| match info {
                    LinkInfo::Kind(kind) => matches!(kind, InfoKind::Veth | InfoKind::Netkit),
                    _ => false,
                });
            }
            _ => {}
        }
    }
    device.peer_elsewhere = device.pair && elsewhere;
    (!device.name.is_empty()).then_some(device)
}

fn address(message: &AddressMessage) -> Option<((u32, IpAddr), u8)> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface the other one is the peer's.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    Some(((message.header.index, local.or(address)?), message.header.prefix_len))
}

/// The routes of a message, one per next hop, if they are unicast routes of the main table.
fn routes(message: &RouteMessage) -> Option<(RouteKey, Vec<KernelRoute>)> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut destination, mut metric, mut hops) = (any, 0, Vec::new());
    let (gateway, device) = next_hop(&message.attributes);
    hops.extend(device.map(|device| (gateway, device)));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(found) => destination = ip(found)?,
            RouteAttribute::Priority(found) => metric = *found,
            RouteAttribute::MultiPath(paths) => hops.extend(
                paths.iter().map(|path| (next_hop(&path.attributes).0, path.interface_index)),
            ),
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || header.kind != RouteType::Unicast {
        return None;
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    let route = |(gateway, device)| KernelRoute { prefix, gateway, device, metric };
    Some(((prefix, metric, header.tos), hops.into_iter().map(route).collect()))
}

fn next_hop(attributes: &[RouteAttribute]) -> (Option<IpAddr>, Option<u32>) {
    let (mut gateway, mut device) = (None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(found) => gateway = ip(found),
            RouteAttribute::Oif(found) => device = Some(*found),
            _ => {}
        }
    }
    (gateway, device)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// A neighbour, with its MAC address if that is known.
fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Option<[u8; 6]>)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let unknown = [NeighbourState::Incomplete, NeighbourState::Failed, NeighbourState::None];
    let mac = mac.filter(|_| !unknown.contains(&message.header.state));
    // Multicast "neighbours" are computed, not learned.
    let address: IpAddr = address.filter(|address: &IpAddr| !address.is_multicast())?;
    Some(((message.header.ifindex, address), mac))
}

//! Routes of ours in the kernel's main table: for what does not meet our programs before it is
//! routed, processes of the node and fragments above all.
//!
//! They carry a protocol number of their own, by which they are found again. A range that somebody
//! else routes already stays theirs.

use super::Error;
use crate::plan::{Hop, KernelRoutes};
use ipnet::IpNet;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
            RouteScope, RouteType,
        },
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Our number among the routing protocols (`/etc/iproute2/rt_protos`).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(218);

/// Makes our routes in the kernel those that are wanted; returns how many were changed.
pub(super) fn set(wanted: &KernelRoutes) -> Result<usize, Error> {
    let mut changed = 0;
    let actual = list().map_err(Error::system("listing routes"))?;
    for (range, hop) in actual.iter().filter(|(range, hop)| wanted.get(range) != Some(hop)) {
        remove(*range, hop).map_err(Error::system(format!("removing the route to {range}")))?;
        changed += 1;
    }
    for (range, hop) in wanted.iter().filter(|(range, hop)| actual.get(range) != Some(hop)) {
        let new = add(*range, hop).map_err(Error::system(format!("adding a route to {range}")))?;
        changed += usize::from(new);
    }
    Ok(changed)
}

/// Removes all routes of ours; returns their ranges.
pub(super) fn remove_all() -> Result<Vec<IpNet>, Error> {
    let routes = list().map_err(Error::system("listing routes"))?;
    set(&KernelRoutes::new())?;
    Ok(routes.into_keys().collect())
}

fn list() -> io::Result<KernelRoutes> {
    let mut routes = KernelRoutes::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let replies = talk(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        routes.extend(replies.iter().filter_map(read));
    }
    Ok(routes)
}

/// Whether the route is new; the kernel refuses one to a range that has a route.
fn add(range: IpNet, hop: &Hop) -> io::Result<bool> {
    match talk(RouteNetlinkMessage::NewRoute(message(range, hop)), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove(range: IpNet, hop: &Hop) -> io::Result<()> {
    match talk(RouteNetlinkMessage::DelRoute(message(range, hop)), 0) {
        // Gone meanwhile, with its device perhaps.
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

fn message(range: IpNet, hop: &Hop) -> RouteMessage {
    let Hop { gateway, device, mtu } = *hop;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if gateway.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        destination_prefix_length: range.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: PROTOCOL,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(address(range.network())),
        RouteAttribute::Gateway(address(gateway)),
        RouteAttribute::Oif(device),
    ];
    let mtu = mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
    message.attributes.extend(mtu);
    message
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// The route of a message, if it is of ours.
fn read(message: &RouteNetlinkMessage) -> Option<(IpNet, Hop)> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.protocol != PROTOCOL {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut gateway, mut device, mut mtu) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(found) => destination = ip(found)?,
            RouteAttribute::Gateway(found) => gateway = ip(found),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => u16::try_from(*mtu).ok(),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let range = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some((range, Hop { gateway: gateway?, device: device?, mtu }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// Sends a request, waits for its end, and returns the answers.
fn talk(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut request = NetlinkMessage::from(message);
    // A dump ends by itself.
    let ack = if flags == NLM_F_DUMP { 0 } else { NLM_F_ACK };
    request.header.flags = NLM_F_REQUEST | ack | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = &received[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
        }
    }
}

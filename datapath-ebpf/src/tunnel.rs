//! IP in IP between nodes (RFC 2003, RFC 2473, RFC 4213), without a tunnel device.
//!
//! The outer packet goes from this node's address to that of the other node. Its time to live,
//! traffic class and congestion mark are the inner packet's, as Linux's own tunnels have them; it is
//! never fragmented: what does not fit is cut before, or its sender is told (RFC 2003, 5.1).

use crate::{
    forward,
    maps::{config, count, count_tunnel},
    packet::{Ipv4, Ipv6, Packet, Transport},
    place::{is_host, route},
    skb::{Action, ETHERNET, Failed, NEXT, Skb},
};
use aya_ebpf::bindings::__sk_buff;
use datapath_common::{Addr, ConfigFlags, Outcome, Protocol, Route, RouteKind, checksum::fold};

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// Offset of the EtherType in the frame.
const ETHERTYPE: u32 = 12;

/// Congestion marks (RFC 3168, 5).
const ECN: u8 = 0b11;
const NOT_CAPABLE: u8 = 0b00;
const CAPABLE_1: u8 = 0b01;
const CONGESTED: u8 = 0b11;

/// What wrapping must know of a packet.
struct Inner {
    src: Addr,
    dst: Addr,
    ttl: u8,
    class: u8,
}

impl Inner {
    #[inline(always)]
    fn read(skb: Skb) -> Result<Self, Failed> {
        if skb.protocol() == u32::from(ETHERTYPE_IPV4) {
            let ip: Ipv4 = skb.load(ETHERNET)?;
            let (src, dst) = (Addr::from_v4_word(ip.src), Addr::from_v4_word(ip.dst));
            Ok(Self { src, dst, ttl: ip.ttl, class: ip.tos })
        } else if skb.protocol() == u32::from(ETHERTYPE_IPV6) {
            let ip: Ipv6 = skb.load(ETHERNET)?;
            Ok(Self { src: ip.src, dst: ip.dst, ttl: ip.hop_limit, class: ip.class() })
        } else {
            Err(Failed)
        }
    }
}

/// Whether the packet is a tunnel's that ends at this node.
#[inline(always)]
pub(crate) fn ends_here(packet: &Packet) -> bool {
    matches!(packet.transport, Transport::Other | Transport::Orphan)
        && is_tunnel(packet.tuple.protocol)
        && is_on()
        && is_host(&packet.tuple.dst)
}

/// Whether this node has tunnels.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    config().is_some_and(|config| config.flags.has(ConfigFlags::TUNNELS))
}

#[inline(always)]
fn is_tunnel(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::IPV4 | Protocol::IPV6)
}

/// Takes the outer header off and reads the packet in it, which must come from the node that
/// sent it, from one of its pods or from itself; or be what that node may pass on
/// ([`dsr::admit`](crate::dsr::admit)).
#[inline(never)] // Reads a packet's headers once more; the way of plain packets stays short.
pub(crate) fn unwrap(context: *mut __sk_buff, packet: &mut Packet) -> Result<(), Outcome> {
    let skb = Skb::from_raw(context);
    let peer = route(&packet.tuple.src)
        .filter(|route| route.kind == RouteKind::PEER)
        .ok_or(Outcome::DroppedUnknownPeer)?;
    if packet.is_fragment() {
        return Err(Outcome::DroppedFragment);
    }
    let outer = Inner::read(skb).map_err(|Failed| Outcome::DroppedMalformed)?;
    let to_v4 = packet.tuple.protocol == Protocol::IPV4;
    skb.shrink(packet.l4 - ETHERNET, outer.src.is_v4(), to_v4)
        .map_err(|Failed| Outcome::DroppedMalformed)?;
    if outer.src.is_v4() != to_v4 {
        let ethertype = if to_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        skb.store(ETHERTYPE, &ethertype, 0).map_err(|Failed| Outcome::DroppedRewrite)?;
    }
    packet.parse(skb).ok_or(Outcome::DroppedMalformed)?;
    packet.passed_on = !is_home(&packet.tuple.src, &peer.next_hop);
    if ends_here(packet) {
        // A tunnel in a tunnel: the inner one may be a pod's own, but no node's.
        return Err(Outcome::DroppedMalformed);
    }
    mark_congestion(packet, skb, outer.class & ECN)?;
    packet.key.src = peer.next_hop;
    Ok(())
}

/// Whether the tunnels of the node that has the address, or whose pods have it, end at `end`.
#[inline(never)] // Its keys would count against the stack of the way out of a tunnel.
fn is_home(addr: &Addr, end: &Addr) -> bool {
    let Some(range) = route(addr) else { return false };
    match range.kind {
        RouteKind::TUNNEL | RouteKind::PEER => range.next_hop == *end,
        RouteKind::REMOTE => route(&range.next_hop)
            .is_some_and(|node| node.kind == RouteKind::PEER && node.next_hop == *end),
        _ => false,
    }
}

/// Keeps a congestion mark that the outer packet was given on its way (RFC 6040, 4.2).
#[inline(always)]
fn mark_congestion(packet: &mut Packet, skb: Skb, outer: u8) -> Result<(), Outcome> {
    if outer & CAPABLE_1 == 0 {
        return Ok(());
    }
    let inner = Inner::read(skb).map_err(|Failed| Outcome::DroppedMalformed)?;
    let marked = match (inner.class & ECN, outer) {
        (NOT_CAPABLE, CONGESTED) => return Err(Outcome::DroppedCongestion),
        (NOT_CAPABLE | CONGESTED, _) | (CAPABLE_1, CAPABLE_1) => return Ok(()),
        (_, outer) => inner.class & !ECN | outer,
    };
    packet.store_class(skb, inner.class, marked)
}

/// Puts an outer header to the other end of `route` in front of the packet.
#[inline(never)] // Of use on several ways, and long.
pub(crate) fn wrap(context: *mut __sk_buff, route: &Route) -> Result<(), Outcome> {
    wrap_by(Skb::from_raw(context), route, Skb::grow)
}

/// The same for an answer that was made of what has come out of a tunnel. The kernel may still take it
/// for wrapped, and then does not do it again (`EALREADY`); of a packet that is not to be segmented it need
/// not know.
#[inline(never)] // Rare.
pub(crate) fn wrap_again(context: *mut __sk_buff, route: &Route) -> Result<(), Outcome> {
    wrap_by(Skb::from_raw(context), route, |skb, length, _v4| skb.make_room(length as i32))
}

#[inline(always)]
fn wrap_by(
    skb: Skb,
    route: &Route,
    grow: impl Fn(Skb, u32, bool) -> Result<(), Failed>,
) -> Result<(), Outcome> {
    let inner = Inner::read(skb).map_err(|Failed| Outcome::DroppedMalformed)?;
    let length = skb.length() - ETHERNET;
    let v4 = inner.dst.is_v4();
    let wrapped = if route.next_hop.is_v4() {
        outer_v4(&inner, length as u16, route.next_hop)
            .and_then(|ip| grow(skb, 20, true).and_then(|()| skb.store(ETHERNET, &ip, 0)))
    } else {
        outer_v6(&inner, length as u16, route.next_hop)
            .and_then(|ip| grow(skb, 40, false).and_then(|()| skb.store(ETHERNET, &ip, 0)))
    };
    wrapped.map_err(|Failed| Outcome::DroppedRewrite)?;
    if route.next_hop.is_v4() != v4 {
        let ethertype = if v4 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        skb.store(ETHERTYPE, &ethertype, 0).map_err(|Failed| Outcome::DroppedRewrite)?;
    }
    count(Outcome::Wrapped);
    count_tunnel(&route.next_hop, |stats| {
        stats.sent_packets += 1;
        stats.sent_bytes += u64::from(length);
    });
    Ok(())
}

#[inline(always)]
fn outer_v4(inner: &Inner, length: u16, to: Addr) -> Result<Ipv4, Failed> {
    const DO_NOT_FRAGMENT: u16 = 0x4000_u16.to_be();
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: inner.class,
        length: length.wrapping_add(20).to_be(),
        id: 0,
        fragment: DO_NOT_FRAGMENT,
        ttl: inner.ttl,
        protocol: protocol(inner),
        checksum: 0,
        src: config().ok_or(Failed)?.node_v4.v4_word(),
        dst: to.v4_word(),
    };
    let words: [u32; 5] = bytemuck::cast(ip);
    ip.checksum = fold(words.iter().map(|word| u64::from(*word)).sum());
    Ok(ip)
}

#[inline(always)]
fn outer_v6(inner: &Inner, length: u16, to: Addr) -> Result<Ipv6, Failed> {
    Ok(Ipv6 {
        version_flow: (6 << 28 | u32::from(inner.class) << 20).to_be(),
        length: length.to_be(),
        next: protocol(inner),
        hop_limit: inner.ttl,
        src: config().ok_or(Failed)?.node_v6,
        dst: to,
    })
}

#[inline(always)]
fn protocol(inner: &Inner) -> Protocol {
    if inner.dst.is_v4() { Protocol::IPV4 } else { Protocol::IPV6 }
}

/// Sends a wrapped packet out; the routing table says which neighbour is next on its way.
#[inline(always)]
pub(crate) fn send(skb: Skb, route: &Route) -> Action {
    skb.set_mark(forward::MARK);
    skb.redirect_routed(route.device)
}

/// What the stack sends to pods behind a tunnel is wrapped last of all, whoever has sent it.
#[inline(never)] // Once for all the ways on which a packet leaves by the stack.
pub(crate) fn leave(context: *mut __sk_buff, packet: &mut Packet) -> Result<Action, Outcome> {
    let skb = Skb::from_raw(context);
    let Ok(inner) = Inner::read(skb) else { return Ok(NEXT) };
    let Some(route) = route(&inner.dst).filter(|route| route.kind == RouteKind::TUNNEL) else {
        return Ok(NEXT);
    };
    if !forward::fits(packet, skb, route) {
        packet.mtu = u32::from(route.mtu);
        return Err(Outcome::RejectedTooBig);
    }
    wrap(context, route)?;
    Ok(send(skb, route))
}

//! Direct server return: what comes from outside is passed on to the node of its backend as it is, in a
//! tunnel, and that node answers the client itself.
//!
//! All of it happens in [`Hook::FromUplink`], and what only this needs is in functions of its own: the way
//! of packets that are translated stays short.

use crate::{
    flow::{self, seen},
    forward,
    hook::Hook,
    maps::{FLOWS, address, count, count_tunnel, frontend},
    masquerade,
    packet::{Packet, Transport},
    place::{Place, is_known, route},
    service::{find, node_port},
    skb::{Action, DROP, Skb},
    tunnel::{is_on, send, wrap},
};
use aya_ebpf::bindings::__sk_buff;
use datapath_common::{
    Addr, FlowFlags, Frontend, FrontendFlags, FrontendKey, FrontendKind, Outcome, Route, RouteKind,
    Tuple,
};

impl Packet {
    /// Whether another node has passed the packet on as its client has sent it.
    #[inline(always)]
    pub(crate) fn is_passed_on(&self, hook: Hook) -> bool {
        hook == Hook::FromUplink && self.passed_on
    }

    /// Whether the packet's flow is passed on to another node.
    #[inline(always)]
    pub(crate) fn is_for_other_node(&self, hook: Hook) -> bool {
        hook == Hook::FromUplink && self.flow.flags.has(FlowFlags::DSR)
    }
}

/// Claims what was chosen for a new flow to `frontend`, as [`flow::settle`] does, or lets the backend answer
/// the client itself. Returns whether answers come by here: otherwise the backend is on another node,
/// and the packet is to be passed on.
#[inline(always)]
pub(crate) fn settle(
    packet: &mut Packet,
    length: u32,
    frontend: &Frontend,
) -> Result<bool, Outcome> {
    let (flags, kind) = (frontend.flags.0.into(), frontend.kind.0.into());
    let outcome = claim_or_pass_on(packet, length, flags, kind);
    let claimed = outcome != PASSED_ON;
    if claimed {
        flow::claimed(outcome)?;
    }
    flow::note_opened(packet);
    Ok(claimed)
}

/// What [`claim_or_pass_on`] returns besides what [`flow::claim_halves`] does.
const PASSED_ON: u32 = u32::MAX;

/// See [`settle`]; `length` is the packet's, in bytes, `flags` and `kind` are the frontend's.
///
/// Exported, which makes it a global function: the verifier looks at it by itself and once, and not
/// once for each path that leads to it.
#[unsafe(no_mangle)]
extern "C" fn claim_or_pass_on(packet: *mut Packet, length: u32, flags: u32, kind: u32) -> u32 {
    // SAFETY: null, for all that the verifier knows, or the packet at hand.
    let Some(packet) = (unsafe { packet.as_mut() }) else { return PASSED_ON };
    if flags & u32::from(FrontendFlags::DSR.0) != 0
        && is_answered_directly(packet, kind == FrontendKind::NODE_PORT.0.into())
    {
        packet.to.src = packet.tuple.src;
        packet.flow.flags = FlowFlags(packet.flow.flags.0 & !FlowFlags::SOURCE_TRANSLATED.0);
        if address(&packet.to.dst).is_none() {
            return open(packet, length);
        }
    }
    flow::claim_halves(packet, length)
}

/// Whether the client of a new flow is to be answered by its backend's node directly, which may be this
/// one. It comes from outside of the cluster, and what it has dialled means the same on that node: of a
/// node's addresses only the one by which the others know it.
#[inline(always)]
fn is_answered_directly(packet: &Packet, is_node_port: bool) -> bool {
    let Tuple { src, dst, .. } = &packet.tuple;
    !is_known(src)
        && (!is_node_port || *dst == masquerade::address(dst))
        && (address(&packet.to.dst).is_some() || towards(&packet.to.dst).is_some())
}

/// Writes the single entry of a flow that is passed on.
#[inline(always)]
fn open(packet: &mut Packet, length: u32) -> u32 {
    let Packet { flow, tcp, .. } = packet;
    flow.to = packet.to;
    flow.flags = flow.flags.with(FlowFlags::DSR).with(FlowFlags::SEEN).with(seen(*tcp));
    flow.packets = 1;
    flow.bytes = u64::from(length);
    if FLOWS.insert(&packet.tuple, &packet.flow, 0).is_err() {
        return Outcome::DroppedFlowTable as u32;
    }
    PASSED_ON
}

/// Passes a packet on as it is to the node of the backend in [`Packet::to`].
#[inline(always)]
pub(crate) fn pass_on(skb: Skb, packet: &mut Packet) -> Result<Action, Outcome> {
    const SPOOFED: i32 = -(Outcome::DroppedSpoofed as i32);
    const NO_ROUTE: i32 = -(Outcome::DroppedNoRoute as i32);
    const TOO_BIG: i32 = -(Outcome::RejectedTooBig as i32);
    match pass_on_packet(skb.raw(), packet) {
        action @ 0.. => Ok(action),
        SPOOFED => Err(Outcome::DroppedSpoofed),
        NO_ROUTE => Err(Outcome::DroppedNoRoute),
        TOO_BIG => Err(Outcome::RejectedTooBig),
        _ => Err(Outcome::DroppedRewrite),
    }
}

/// See [`pass_on`]; returns what the program is to return, or the negative number of the outcome.
///
/// Exported, as [`claim_or_pass_on`] is.
#[unsafe(no_mangle)]
extern "C" fn pass_on_packet(context: *mut __sk_buff, packet: *mut Packet) -> i32 {
    // SAFETY: null, for all that the verifier knows, or the packet at hand.
    let Some(packet) = (unsafe { packet.as_mut() }) else { return DROP };
    match try_pass_on(context, packet) {
        Ok(action) => action,
        Err(outcome) => -(outcome as i32),
    }
}

#[inline(always)]
fn try_pass_on(context: *mut __sk_buff, packet: &mut Packet) -> Result<Action, Outcome> {
    if packet.passed_on {
        return Err(Outcome::DroppedSpoofed);
    }
    let skb = Skb::from_raw(context);
    let route = towards(&packet.to.dst).ok_or(Outcome::DroppedNoRoute)?;
    if !forward::fits(packet, skb, route) {
        // Also one that might be cut: the stack would take it for its own.
        packet.mtu = u32::from(route.mtu);
        return Err(Outcome::RejectedTooBig);
    }
    wrap(context, route)?;
    Ok(send(skb, route))
}

/// The way through a tunnel to the node on which a backend lives, whether or not we carry packets to it
/// by that way otherwise.
#[inline(never)] // Its keys would count against the stack of every path.
fn towards(backend: &Addr) -> Option<&'static Route> {
    let range = route(backend)?;
    let end = match range.kind {
        RouteKind::TUNNEL | RouteKind::PEER => range,
        RouteKind::REMOTE | RouteKind::FOREIGN => {
            route(&range.next_hop).filter(|node| node.kind == RouteKind::PEER)?
        }
        _ => return None,
    };
    (is_on() && !end.next_hop.is_unspecified()).then_some(end)
}

/// Lets in what has been unwrapped: what may not be passed on is dropped.
#[inline(never)] // Not called from where the packet is unwrapped, whose stack is deep.
pub(crate) fn admit(packet: &mut Packet, length: u32) -> i32 {
    if packet.passed_on && !is_passed_on(packet) {
        return 0;
    }
    count(Outcome::Unwrapped);
    count_tunnel(&packet.key.src, |stats| {
        stats.received_packets += 1;
        stats.received_bytes += u64::from(length);
    });
    1
}

/// Whether another node may have passed the packet on: it comes from nowhere in the cluster, and goes to
/// a frontend that is served so. Of an ICMP error it shows later, by the flow of what it quotes.
#[inline(always)]
fn is_passed_on(packet: &Packet) -> bool {
    !is_known(&packet.tuple.src)
        && (packet.transport == Transport::IcmpError || find_passed_on(packet).is_some())
}

/// The frontend that serves a packet, wherever it comes from.
#[inline(always)]
pub(crate) fn frontend_of(
    packet: &Packet,
    hook: Hook,
    place: impl FnOnce() -> Place,
) -> Option<&'static Frontend> {
    if packet.is_passed_on(hook) { find_passed_on(packet) } else { find(&packet.tuple, place) }
}

/// The frontend that serves what another node passes on: its client has dialled an address that all
/// nodes serve, or a node port of a node.
#[inline(never)] // Rare, and its keys would count against the stack of every path.
pub(crate) fn find_passed_on(packet: &Packet) -> Option<&'static Frontend> {
    let Tuple { dst, ports, protocol, .. } = packet.tuple;
    let key = FrontendKey::new(dst, ports.dst, protocol).passed_on();
    frontend(&key).or_else(|| {
        let node = route(&dst).is_some_and(|range| range.kind == RouteKind::PEER);
        if node { node_port(&key) } else { None }
    })
}

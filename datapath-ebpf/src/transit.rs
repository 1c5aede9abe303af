//! What XDP turns round: packets that came from outside and go back out of the same uplink, to the
//! backend on another node or from there to the client.
//!
//! Each is decided by the same code and the same maps as in [`Hook::FromUplink`], so a flow may be
//! opened here and go on there, and the reverse. Whatever is not plain, or not to be sent on, is passed
//! up as it came: the tc program then does what it would have done without us, and counts it.

use crate::{
    fib::{self, Hop},
    flow,
    forward::is_native,
    frame::Frame,
    hook::Hook,
    is_martian, is_spoofed,
    maps::count,
    packet::Packet,
    place::Place,
    service::{self, now},
    skb::ETHERNET,
};
use datapath_common::{Flow, FlowFlags, FrontendFlags, Outcome, Protocol};

/// After this long without a packet the kernel is asked to carry one: only what it sends itself makes
/// it ask whether a neighbour is still there.
const QUIET: u64 = 5_000_000_000;

/// Turns the packet round; `None` if it is to be passed up. The frame is untouched then.
#[inline(always)]
pub(crate) fn turn(packet: &mut Packet, frame: Frame) -> Option<Result<(), Outcome>> {
    frame.parse(packet)?;
    // The stack tells the sender of a packet at the end of its life.
    if packet.ttl <= 1 || is_martian(packet) {
        return None;
    }
    let hop = match flow::entry(packet) {
        Some(flow) => follow(packet, frame, flow)?,
        None => open(packet, frame)?,
    };
    Some(frame.rewrite(packet, &hop))
}

/// A packet of a flow that there is already.
#[inline(always)]
fn follow(packet: &mut Packet, frame: Frame, flow: &mut Flow) -> Option<Hop> {
    let now = now();
    packet.to = flow.to;
    packet.flow.flags = flow.flags;
    if flow.flags.has_any(FlowFlags::SINGLE.with(FlowFlags::HOST_CLIENT))
        // A new connection may take the flow's place.
        || packet.opens()
        || now.saturating_sub(flow.last_seen) > QUIET
        || (flow.flags.has(FlowFlags::FORWARD)
            && packet.tuple.protocol != Protocol::TCP
            && !flow::is_served(packet, flow, now, false))
    {
        return None;
    }
    let hop = hop(packet, frame)?;
    flow::note(packet, flow, now, frame.length());
    count(Outcome::FlowTranslated);
    Some(hop)
}

/// A packet that opens a flow. The flow is opened even if the packet is passed up then: a backend that
/// is chosen must stay chosen, or those of other nodes would be asked twice as often as our own.
#[inline(always)]
fn open(packet: &mut Packet, frame: Frame) -> Option<Hop> {
    let place = Place::of(&packet.tuple.dst);
    if place.is_pod() {
        return None;
    }
    let frontend = service::find(&packet.tuple, || place)?;
    // It may be to be wrapped, a plain connection that only looks like an answer, or nobody's.
    if frontend.flags.has(FrontendFlags::DSR) || flow::clashes(packet) || is_spoofed(packet) {
        return None;
    }
    flow::choose(packet, Hook::FromUplink, frame.device(), frontend).ok()?;
    let hop = hop(packet, frame);
    let length = if hop.is_some() { frame.length() } else { 0 };
    flow::settle(packet, length).ok()?;
    hop
}

/// The next hop of a packet that the tc program would send to another node, or back to a client, by way
/// of its neighbour.
#[inline(always)]
fn hop(packet: &Packet, frame: Frame) -> Option<Hop> {
    /// Its backend may have been a pod of this node, which is gone.
    const TO_POD: FlowFlags = FlowFlags::FORWARD.with(FlowFlags::TO_POD);
    let length = frame.length() - ETHERNET;
    let source_changed = packet.to.src != packet.tuple.src;
    let next = match Place::of(&packet.to.dst) {
        Place::Remote(route) if is_native() && length <= u32::from(route.mtu) => route.next_hop,
        Place::Remote(_) if source_changed && !is_native() => packet.to.dst,
        Place::Elsewhere if source_changed && !packet.flow.flags.has(TO_POD) => packet.to.dst,
        _ => return None,
    };
    fib::hop(frame, length, &packet.to.src, &next)
}

//! Where a packet goes.
//!
//! Three ways lead on. *The stack*: what needs no help of ours, or what it must see both ways (its
//! own conntrack and masquerading stay right only if they see both directions of a flow). *Our
//! routes*: pod to pod, where native routing is on, straight or through a tunnel. *The routing table*:
//! packets that the stack would not take, since their new source is an address of this node.

use crate::{
    hook::Hook,
    maps::{config, count},
    masquerade,
    packet::{Packet, RST, SYN, Transport},
    place::{self, Place},
    skb::{Action, ETHERNET, Failed, NEXT, Routed, Skb},
    tunnel,
};
use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST};
use datapath_common::{ConfigFlags, FlowFlags, Outcome, Protocol, Route};

/// On a packet that we send out of the uplink, or let arrive by it: the programs there have nothing
/// left to do. The kernel clears it when the packet leaves the node's network namespace.
pub(crate) const MARK: u32 = 0x000d_a7a0;

/// How a packet leaves the program.
#[derive(Clone, Copy)]
enum Way {
    /// Up the stack, or on along it.
    Stack,
    /// Into the pod behind a device.
    Pod(u32),
    /// Out of a device to a neighbour.
    Neighbour(u32, datapath_common::Addr),
    /// Wrapped, to another node.
    Tunnel(&'static Route),
    /// In by an uplink, as if it had come from there.
    Arrive(u32),
}

/// Carries a packet that needs no translation: between pods, where native routing is on.
#[inline(always)]
pub(crate) fn carry(
    packet: &mut Packet,
    skb: Skb,
    hook: Hook,
    place: Place,
) -> Result<Action, Outcome> {
    let way = match place {
        Place::Pod(pod) if is_native_from_pod(packet, hook) => Way::Pod(pod.device),
        Place::Remote(route)
            if hook == Hook::FromPod && is_native() && fits(packet, skb, route) =>
        {
            Way::Neighbour(route.device, route.next_hop)
        }
        Place::Tunnel(route) if hook == Hook::FromPod => through(packet, skb, route)?,
        _ => Way::Stack,
    };
    send(packet, skb, way, false)
}

/// Translates a packet and carries it on. `place` is where its new destination lives.
#[inline(always)]
pub(crate) fn translate(
    packet: &mut Packet,
    skb: Skb,
    hook: Hook,
    place: Place,
) -> Result<Action, Outcome> {
    keep_from_nobody(packet, skb, hook, place)?;
    let way = way(packet, skb, hook, place)?;
    send(packet, skb, way, true)
}

/// Keeps a packet whose destination was a pod of this node, or could only be one, from leaving the
/// node where no pod has the address.
#[inline(always)]
pub(crate) fn keep_from_nobody(
    packet: &Packet,
    skb: Skb,
    hook: Hook,
    place: Place,
) -> Result<(), Outcome> {
    const TO_POD: FlowFlags = FlowFlags::FORWARD.with(FlowFlags::TO_POD);
    let suspect = match place {
        Place::Vacant => hook != Hook::ToPod,
        // Where pods are not ours to route, only flows tell that a pod had the address.
        Place::Elsewhere => packet.known && packet.flow.flags.has(TO_POD),
        _ => false,
    };
    if !suspect || leaves(skb.raw(), packet, hook as u32) == 0 {
        return Ok(());
    }
    let of_connection = packet.transport == Transport::Whole
        && packet.tuple.protocol == Protocol::TCP
        && packet.tcp & (SYN | RST) == 0;
    Err(if of_connection { Outcome::ResetNoPod } else { Outcome::DroppedNoPod })
}

/// Whether the kernel would send the packet out of the node, or has a route that forbids to send it
/// anywhere. A pod that is just being set up has a route to its interface before we know it.
#[inline(never)] // Rare, and what it needs of the stack is much.
fn leaves(context: *mut __sk_buff, packet: &Packet, hook: u32) -> i32 {
    let skb = Skb::from_raw(context);
    let Some(config) = config() else { return 0 };
    let from = if hook == Hook::ToUplink as u32 { config.uplink } else { skb.device() };
    let leaves = match skb.route(from, &packet.to.src, &packet.to.dst) {
        Routed::Sent { device, .. } => {
            device == config.uplink || (hook == Hook::FromUplink as u32 && device == from)
        }
        Routed::Nowhere => true,
        Routed::NotSent => false,
    };
    leaves.into()
}

/// Whether an answer travels through the stack with its destination as it is: then it is translated
/// where it leaves the stack, in [`Hook::ToPod`] or [`Hook::ToUplink`]. So the stack sees the same two
/// addresses both ways, and no packet with a service's address comes in by a device where it could not.
/// Nor is a packet put back twice: with its client's port back, it looks like an answer of the flow that
/// the port was changed for.
#[inline(always)]
pub(crate) fn is_left_to_far_side(packet: &Packet, hook: Hook, place: Place) -> bool {
    matches!(hook, Hook::FromPod | Hook::FromUplink)
        && packet.to.dst == packet.tuple.dst
        && !packet.flow.flags.has(FlowFlags::FORWARD)
        && match place {
            Place::Pod(_) => !is_native_from_pod(packet, hook),
            Place::Remote(_) => is_plain_from_pod(packet, hook) && !is_native(),
            Place::Service | Place::Vacant | Place::Elsewhere => is_plain_from_pod(packet, hook),
            // Here the stack is the far side itself, and what goes through a tunnel goes past it.
            Place::Host(_) | Place::Tunnel(_) => false,
        }
}

/// Whether what a pod sends keeps its source.
#[inline(always)]
fn is_plain_from_pod(packet: &Packet, hook: Hook) -> bool {
    hook == Hook::FromPod && packet.to.src == packet.tuple.src
}

#[inline(always)]
fn way(packet: &mut Packet, skb: Skb, hook: Hook, place: Place) -> Result<Way, Outcome> {
    let incoming = matches!(hook, Hook::FromPod | Hook::FromUplink);
    // The stack takes no packet from outside whose source is an address of its own.
    let source_changed = packet.to.src != packet.tuple.src;
    Ok(match place {
        _ if hook == Hook::ToPod => Way::Stack,
        Place::Tunnel(route) => match through(packet, skb, route)? {
            // The stack's own packets are wrapped after all else, see `tunnel::leave`.
            _ if hook == Hook::ToUplink => Way::Stack,
            way => way,
        },
        // With both addresses as they were, it goes as it would have gone with its own port.
        Place::Pod(_)
            if incoming
                && !source_changed
                && packet.to.dst == packet.tuple.dst
                && !is_native_from_pod(packet, hook) =>
        {
            Way::Stack
        }
        Place::Pod(pod)
            if incoming && (source_changed || is_native() || answers_hidden_client(packet)) =>
        {
            Way::Pod(pod.device)
        }
        Place::Pod(pod) if hook == Hook::ToUplink => Way::Neighbour(pod.device, packet.to.dst),
        // An answer to a host client enters by the device that its request left by: there the
        // reverse path filter (RFC 3704) expects the service's address.
        Place::Host(_) if hook == Hook::FromPod && source_changed => {
            Way::Arrive(packet.flow.device)
        }
        Place::Host(_) if hook == Hook::ToUplink => Way::Arrive(skb.device()),
        Place::Pod(_) | Place::Host(_) => Way::Stack,
        _ if hook == Hook::ToUplink && packet.to.dst == packet.tuple.dst => Way::Stack,
        Place::Remote(route) if is_native() && fits(packet, skb, route) => {
            Way::Neighbour(route.device, route.next_hop)
        }
        _ if incoming && !source_changed => Way::Stack,
        _ => {
            // A host's packet is routed as if it had come by the uplink: loopback forwards none.
            let from = if hook == Hook::ToUplink {
                config().ok_or(Outcome::DroppedNoRoute)?.uplink
            } else {
                skb.device()
            };
            let Routed::Sent { device, next_hop } = skb.route(from, &packet.to.src, &packet.to.dst)
            else {
                return Err(Outcome::DroppedNoRoute);
            };
            Way::Neighbour(device, next_hop)
        }
    })
}

/// Whether the packet, or each of the segments that it will be cut into, fits the way to another node.
/// One that does not goes to the stack, which cuts it or tells the sender (RFC 1191, RFC 8201).
#[inline(always)]
pub(crate) fn fits(packet: &Packet, skb: Skb, route: &Route) -> bool {
    let mtu = u32::from(route.mtu);
    if skb.segment() == 0 {
        return skb.length() - ETHERNET <= mtu;
    }
    segments_fit(skb.raw(), packet, mtu)
}

#[inline(never)] // Once for a whole train of segments.
fn segments_fit(context: *mut __sk_buff, packet: &Packet, mtu: u32) -> bool {
    let skb = Skb::from_raw(context);
    skb.segment() + packet.headers(skb) <= mtu
}

/// The way through a tunnel. A packet that does not fit is left to the stack if it may be cut;
/// otherwise its sender is told: the stack knows what fits only where it has a route of ours.
#[inline(always)]
fn through(packet: &mut Packet, skb: Skb, route: &'static Route) -> Result<Way, Outcome> {
    if fits(packet, skb, route) {
        return Ok(Way::Tunnel(route));
    }
    packet.mtu = u32::from(route.mtu);
    if may_be_cut(skb.raw(), packet) { Ok(Way::Stack) } else { Err(Outcome::RejectedTooBig) }
}

/// Whether the stack may be left with a packet that is too big.
#[inline(never)] // Rare.
fn may_be_cut(context: *mut __sk_buff, packet: &Packet) -> bool {
    packet.to.src == packet.tuple.src && packet.may_be_cut(Skb::from_raw(context))
}

/// Whether the packet comes from a pod by a way that is ours.
#[inline(always)]
fn is_native_from_pod(packet: &Packet, hook: Hook) -> bool {
    let from_pod = match hook {
        Hook::FromPod => true,
        Hook::FromUplink => place::is_remote(&packet.tuple.src),
        Hook::ToPod | Hook::ToUplink => false,
    };
    from_pod && is_native()
}

/// Whether the packet answers a client whose source was replaced: the stack has not seen its request.
#[inline(always)]
fn answers_hidden_client(packet: &Packet) -> bool {
    const HALF: u16 = FlowFlags::FORWARD.0 | FlowFlags::SOURCE_TRANSLATED.0;
    packet.flow.flags.0 & HALF == FlowFlags::SOURCE_TRANSLATED.0
}

/// Whether answers to a packet that the stack delivers to a pod would not go back through the stack by
/// themselves: it comes from a pod whose packets are ours, or from outside, where pods' connections are
/// masqueraded. (One over TCP shows by its lack of a SYN that it is an answer.) If so, whether a flow may
/// be written over: one that comes from outside has perhaps been translated on its way.
#[inline(always)]
pub(crate) fn detour(packet: &Packet) -> Option<u32> {
    if packet.transport != Transport::Whole {
        return None;
    }
    match Place::of(&packet.tuple.src) {
        place if place.is_pod() => is_native().then_some(BPF_ANY),
        Place::Elsewhere if packet.tuple.protocol != Protocol::TCP => {
            masquerade::is_on().then_some(BPF_NOEXIST)
        }
        _ => None,
    }
}

#[inline(always)]
pub(crate) fn is_native() -> bool {
    config().is_some_and(|config| config.flags.has(ConfigFlags::NATIVE_ROUTING))
}

/// Writes what has changed, and lets the packet go.
#[inline(always)]
fn send(packet: &mut Packet, skb: Skb, way: Way, translated: bool) -> Result<Action, Outcome> {
    let routed = matches!(way, Way::Pod(_) | Way::Neighbour(..) | Way::Tunnel(_));
    // A packet at the end of its life is the stack's, which tells the sender.
    let way = if routed && packet.ttl <= 1 { Way::Stack } else { way };
    if matches!(way, Way::Pod(_) | Way::Neighbour(..) | Way::Tunnel(_)) {
        packet.age();
        if !translated {
            packet.store_age(skb)?;
        }
    }
    if translated {
        packet.rewrite(skb)?;
    }
    Ok(match way {
        Way::Stack => {
            count(Outcome::Passed);
            NEXT
        }
        Way::Pod(device) => {
            count(Outcome::ToPod);
            skb.redirect_peer(device)
        }
        Way::Neighbour(device, next_hop) => {
            count(Outcome::ToNode);
            skb.set_mark(MARK);
            skb.redirect_neighbour(device, &next_hop)
        }
        Way::Tunnel(route) => {
            tunnel::wrap(skb.raw(), route)?;
            tunnel::send(skb, route)
        }
        Way::Arrive(device) => arrive(skb, device).map_err(|Failed| Outcome::DroppedRewrite)?,
    })
}

/// Lets the packet arrive by `device`, an uplink; for the loopback device, which takes no packet
/// that was not sent through it, by the uplink with the node's address.
#[inline(always)]
pub(crate) fn arrive(skb: Skb, device: u32) -> Result<Action, Failed> {
    const LOOPBACK: u32 = 1;
    let config = config().ok_or(Failed)?;
    // The uplink takes only frames to its own MAC address.
    skb.store(0, &config.uplink_mac, 0)?;
    skb.set_mark(MARK);
    Ok(skb.redirect_in(if device == LOOPBACK { config.uplink } else { device }))
}

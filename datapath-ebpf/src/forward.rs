//! Where a packet goes.
//!
//! Three ways lead on. *The stack*: what needs no help of ours, or what it must see both ways (its
//! own conntrack and masquerading stay right only if they see both directions of a flow). *Our
//! routes*: pod to pod, where native routing is on. *The routing table*: packets that the stack
//! would not take, since their new source is an address of this node.

use crate::{
    hook::Hook,
    maps::{address, config, count, route},
    packet::Packet,
    skb::{Action, ETHERNET, NEXT, Skb},
};
use datapath_common::{AddressKind, ConfigFlags, FlowFlags, Outcome, RouteKind};

/// On a packet that we send out of the uplink: [`Hook::ToUplink`] has nothing left to do. The
/// kernel clears it when the packet leaves the node's network namespace.
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
    /// In by a device, as if it had come from there.
    Arrive(u32),
}

/// Carries a packet that needs no translation: between pods, where native routing is on.
#[inline(always)]
pub(crate) fn carry(packet: &mut Packet, skb: Skb, hook: Hook) -> Result<Action, Outcome> {
    let native = matches!(hook, Hook::FromPod | Hook::FromUplink) && is_native();
    if !native {
        count(Outcome::Passed);
        return Ok(NEXT);
    }
    let way = match address(&packet.to.dst) {
        Some(here) if here.kind == AddressKind::POD && is_from_pod(packet, hook) => {
            Way::Pod(here.device)
        }
        None if hook == Hook::FromPod => remote(packet, skb).unwrap_or(Way::Stack),
        _ => Way::Stack,
    };
    send(packet, skb, way, false)
}

/// Translates a packet and carries it on.
#[inline(always)]
pub(crate) fn translate(packet: &mut Packet, skb: Skb, hook: Hook) -> Result<Action, Outcome> {
    let way = way(packet, skb, hook)?;
    send(packet, skb, way, true)
}

/// Whether an answer to a pod of this node travels through the stack: then its source is put back
/// where it leaves the stack, in [`Hook::ToPod`]. So the stack sees the same two addresses both
/// ways, and no packet with a service's address comes in by a device where it could not.
#[inline(always)]
pub(crate) fn is_left_to_pod_side(packet: &Packet, hook: Hook) -> bool {
    let incoming = matches!(hook, Hook::FromPod | Hook::FromUplink);
    let destination_stays =
        packet.to.dst == packet.tuple.dst && packet.to.ports.dst == packet.tuple.ports.dst;
    incoming
        && destination_stays
        && !packet.flow.flags.has(FlowFlags::FORWARD)
        && address(&packet.to.dst).is_some_and(|here| here.kind == AddressKind::POD)
        && !(is_native() && is_from_pod(packet, hook))
}

#[inline(always)]
fn way(packet: &Packet, skb: Skb, hook: Hook) -> Result<Way, Outcome> {
    let incoming = matches!(hook, Hook::FromPod | Hook::FromUplink);
    if hook == Hook::ToPod {
        return Ok(Way::Stack);
    }
    // The stack takes no packet from outside whose source is an address of its own.
    let source_changed = packet.to.src != packet.tuple.src;
    if let Some(here) = address(&packet.to.dst) {
        return Ok(match here.kind {
            AddressKind::POD if incoming && (source_changed || is_native()) => {
                Way::Pod(here.device)
            }
            AddressKind::POD if hook == Hook::ToUplink => {
                Way::Neighbour(here.device, packet.to.dst)
            }
            // An answer to a host client enters by the device that its request left by: there the
            // reverse path filter (RFC 3704) expects the service's address.
            AddressKind::HOST if hook == Hook::FromPod && source_changed => {
                Way::Arrive(packet.flow.device)
            }
            AddressKind::HOST if hook == Hook::ToUplink => Way::Arrive(skb.device()),
            _ => Way::Stack,
        });
    }
    if hook == Hook::ToUplink && packet.to.dst == packet.tuple.dst {
        return Ok(Way::Stack);
    }
    if is_native()
        && let Some(way) = remote(packet, skb)
    {
        return Ok(way);
    }
    if !source_changed && incoming {
        return Ok(Way::Stack);
    }
    let (device, next_hop) =
        skb.route(&packet.to.src, &packet.to.dst).ok_or(Outcome::DroppedNoRoute)?;
    Ok(Way::Neighbour(device, next_hop))
}

/// The way to a pod of another node, if a route of ours leads there and the packet fits it. One
/// that is too big goes to the stack, which cuts it or tells the sender (RFC 1191, RFC 8201).
#[inline(always)]
fn remote(packet: &Packet, skb: Skb) -> Option<Way> {
    let route = route(packet.to.dst)?;
    let fits = skb.segment() != 0 || skb.length() - ETHERNET <= u32::from(route.mtu);
    (route.kind == RouteKind::REMOTE && fits)
        .then_some(Way::Neighbour(route.device, route.next_hop))
}

/// Whether the packet comes from a pod that our routes know.
#[inline(always)]
fn is_from_pod(packet: &Packet, hook: Hook) -> bool {
    hook == Hook::FromPod
        || route(packet.tuple.src).is_some_and(|route| route.kind == RouteKind::REMOTE)
}

#[inline(always)]
fn is_native() -> bool {
    config().is_some_and(|config| config.flags.has(ConfigFlags::NATIVE_ROUTING))
}

/// Writes what has changed, and lets the packet go.
#[inline(always)]
fn send(packet: &mut Packet, skb: Skb, way: Way, translated: bool) -> Result<Action, Outcome> {
    let routed = matches!(way, Way::Pod(_) | Way::Neighbour(..));
    // A packet at the end of its life is the stack's, which tells the sender.
    let way = if routed && packet.ttl <= 1 { Way::Stack } else { way };
    if matches!(way, Way::Pod(_) | Way::Neighbour(..)) {
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
        Way::Arrive(device) => {
            arrive(skb)?;
            skb.redirect_in(device)
        }
    })
}

/// Addresses the frame to the uplink, which takes only frames to its own MAC address.
#[inline(always)]
fn arrive(skb: Skb) -> Result<(), Outcome> {
    let config = config().ok_or(Outcome::DroppedRewrite)?;
    skb.store(0, &config.uplink_mac, 0).map_err(|_| Outcome::DroppedRewrite)
}

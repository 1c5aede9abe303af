//! Pods' connections to the outside of the cluster. They leave with the node's address and a port of
//! its own, since nobody out there knows the way to a pod (RFC 3022); an echo's identifier is its port
//! (RFC 5508, 3.1).

use crate::{
    hook::Hook,
    maps::{NON_MASQUERADE, config, frontend},
    packet::{Packet, Transport},
    place::Place,
    skb::{Routed, Skb, longest_prefix},
};
use aya_ebpf::bindings::__sk_buff;
use datapath_common::{Addr, ConfigFlags, FlowFlags, FrontendKey, LpmKey, Protocol};

/// Whether the packet opens a connection that is to leave with the node's address.
///
/// A TCP connection only opens with its SYN: anything else without a flow may be the answer to somebody
/// outside who knows the way to the pod after all.
#[inline(always)]
pub(crate) fn applies(packet: &Packet, skb: Skb, hook: Hook, place: Place) -> bool {
    let opens = match packet.transport {
        Transport::Whole => packet.opens() || packet.tuple.protocol != Protocol::TCP,
        Transport::Echo => true,
        _ => false,
    };
    hook == Hook::FromPod
        && opens
        && matches!(place, Place::Elsewhere)
        && is_on()
        && packet.ttl > 1
        && frontend(&FrontendKey::any_port(packet.tuple.dst)).is_none()
        && is_outside(skb.raw(), packet) != 0
}

/// Whether a pod's flow to a backend is to leave with the node's address, since that backend is outside.
#[inline(always)]
pub(crate) fn hides(packet: &Packet, skb: Skb, hook: Hook) -> bool {
    hook == Hook::FromPod && is_on() && is_outside(skb.raw(), packet) != 0
}

/// Whether a pod of this node leaves the cluster when its packet goes to [`Packet::to`]: by the uplink,
/// and to nobody whom the node's configuration names.
#[inline(never)] // Once for each connection.
fn is_outside(context: *mut __sk_buff, packet: &Packet) -> i32 {
    let skb = Skb::from_raw(context);
    let dst = &packet.to.dst;
    let Some(config) = config() else { return 0 };
    if dst.is_nobodys() || address(dst).is_unspecified() {
        return 0;
    }
    let inside = !matches!(Place::of(dst), Place::Elsewhere)
        || longest_prefix::<_, _, u8>(&NON_MASQUERADE, &LpmKey::host(*dst)).is_some()
        || !matches!(Place::of(&packet.tuple.src), Place::Pod(_));
    if inside {
        return 0;
    }
    match skb.route(skb.device(), &packet.tuple.src, dst) {
        Routed::Sent { device, .. } => (device == config.uplink).into(),
        Routed::Nowhere | Routed::NotSent => 0,
    }
}

/// Whether this node hides its pods from the outside.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    config().is_some_and(|config| config.flags.has(ConfigFlags::MASQUERADE_OUTSIDE))
}

/// The node's address that such connections leave with; unspecified if it has none of the family.
#[inline(always)]
pub(crate) fn address(dst: &Addr) -> Addr {
    match config() {
        Some(config) if dst.is_v4() => config.node_v4,
        Some(config) => config.node_v6,
        None => Addr::UNSPECIFIED_V6,
    }
}

/// Whether a packet of a known flow ends at this node, its first router. It is the stack that tells its
/// sender, and the stack takes no packet from a pod that carries the node's own address.
#[inline(always)]
pub(crate) fn expires(packet: &Packet, hook: Hook) -> bool {
    const REQUEST: FlowFlags = FlowFlags::FORWARD.with(FlowFlags::SOURCE_TRANSLATED);
    hook == Hook::FromPod
        && packet.ttl <= 1
        && packet.flow.flags.has(REQUEST)
        && packet.to.dst == packet.tuple.dst
}

//! Flows: translation decided once, remembered in two mirror entries.

use crate::{
    dsr,
    forward::MARK,
    hook::Hook,
    maps::{FLOWS, backend, config, count, count_service},
    masquerade,
    packet::{ACK, FIN, Packet, RST, SYN, Transport},
    place::{Place, is_host},
    service::{self, Client, now, random},
    skb::Skb,
};
use aya_ebpf::bindings::BPF_NOEXIST;
use datapath_common::{
    Addr, Address, AddressKind, Backend, Be16, Config, ConfigFlags, Flow, FlowFlags, Frontend,
    Outcome, Protocol,
};

/// After this long without a packet, a flow's other half is checked: only idle entries are evicted.
const IDLE: u64 = 1_000_000_000;

/// How many source ports are tried for a flow.
const PORT_ATTEMPTS: u32 = 16;

/// After how many of these attempts a port may also be one that a finished connection has left: the
/// backend may still remember that connection, and then takes a second longer to take the new one.
const FREE_PORT_ATTEMPTS: u32 = 4;

/// Finds the packet's flow and notes the packet in it. A packet without a flow, or one whose flow
/// must be decided anew, stays unknown.
#[inline(always)]
pub(crate) fn lookup(packet: &mut Packet, length: u32, hook: Hook) {
    let Some(flow) = entry(packet) else { return };
    packet.to = flow.to;
    let now = now();
    if flow.flags.has(FlowFlags::FORWARD) && is_stale(packet, flow, now, hook) {
        forget(packet);
        return;
    }
    note(packet, flow, now, length);
}

/// The half of a flow that packets like this one belong to.
#[inline(always)]
pub(crate) fn entry(packet: &Packet) -> Option<&'static mut Flow> {
    // SAFETY: the slot may be reused under us, as in any LRU map; all values are plain numbers, and
    // what matters is copied at once.
    FLOWS.get_ptr_mut(&packet.tuple).map(|flow| unsafe { &mut *flow })
}

/// Notes the packet in its flow; [`Packet::to`] has been set from it.
#[inline(always)]
pub(crate) fn note(packet: &mut Packet, flow: &mut Flow, now: u64, length: u32) {
    let flags = flow.flags;
    packet.known = true;
    packet.flow.flags = flags;
    packet.flow.device = flow.device;
    let idle = now.saturating_sub(flow.last_seen);
    flow.last_seen = now;
    flow.packets += 1;
    flow.bytes += u64::from(length);
    flow.flags = flags.with(FlowFlags::SEEN).with(seen(packet.tcp));
    if idle > IDLE && !flags.has_any(FlowFlags::SINGLE) {
        packet.flow = *flow;
        restore_mirror(packet);
    }
}

/// Notes that the packet was answered with a reset: nothing more will come.
#[inline(always)]
pub(crate) fn note_reset(packet: &Packet) {
    if packet.known
        && let Some(flow) = entry(packet)
    {
        flow.flags = flow.flags.with(FlowFlags::RST);
    }
}

/// Notes that the stack delivers this packet to a pod, and so must carry its answers: between two pods
/// that we would have carried, it has come by an address that the stack itself translates (a host port
/// of the portmap plugin, a connection from before we came); from outside, its sender knows the pod.
/// `mode` says what becomes of an entry that is there (`BPF_ANY`, `BPF_NOEXIST`).
#[inline(never)] // Rare.
pub(crate) fn leave_to_stack(packet: &mut Packet, mode: u32) -> i32 {
    packet.key = packet.tuple.reverse();
    packet.flow = Flow {
        last_seen: now(),
        packets: 0,
        bytes: 0,
        to: packet.key,
        service: 0,
        backend: 0,
        device: 0,
        flags: FlowFlags::STACK.with(FlowFlags::SEEN).with(FlowFlags::ACKED),
        pad: 0,
    };
    // Without room for the entry, answers take the short way, as if nothing had been noticed.
    FLOWS.insert(&packet.key, &packet.flow, mode.into()).is_ok().into()
}

/// What a TCP packet tells about its direction.
#[inline(always)]
pub(crate) fn seen(tcp: u8) -> FlowFlags {
    let mut flags = FlowFlags::default();
    if tcp & (ACK | SYN) == ACK {
        flags = flags.with(FlowFlags::ACKED);
    }
    if tcp & FIN != 0 {
        flags = flags.with(FlowFlags::FIN);
    }
    if tcp & RST != 0 {
        flags = flags.with(FlowFlags::RST);
    }
    flags
}

/// Whether the flow must be decided anew: its backend is gone, or what its client dials is no longer
/// that service's, and nothing is lost by moving; or a new connection reuses the tuple of one that has
/// ended.
///
/// An established TCP connection is never moved: its endpoint may still be finishing.
#[inline(always)]
fn is_stale(packet: &Packet, flow: &Flow, now: u64, hook: Hook) -> bool {
    let passed_on = packet.is_passed_on(hook);
    // What was passed on is never passed on again: its client has come by this node itself before.
    if passed_on && flow.flags.has(FlowFlags::DSR) {
        return true;
    }
    if packet.tuple.protocol == Protocol::TCP {
        if !packet.opens() {
            return false;
        }
        if flow.flags.0 & (FlowFlags::FIN.0 | FlowFlags::RST.0) != 0 {
            return true;
        }
    }
    if is_served(packet, flow, now, passed_on) {
        return false;
    }
    count(Outcome::FlowMoved);
    true
}

/// Whether the flow's backend is still there, and what its client dials is still that service's, be it by
/// way of another node that has `passed_on` the packet.
#[inline(always)]
pub(crate) fn is_served(packet: &Packet, flow: &Flow, now: u64, passed_on: bool) -> bool {
    // A plain connection with another source has no service, and no backend that could go.
    let served = flow.service == 0 || backend(flow.backend).is_some();
    // Datagrams ask once in a tick of the clock: a busy flow must not pay for it with each packet.
    let asked = now == flow.last_seen && packet.tuple.protocol != Protocol::TCP;
    let dials = || {
        if passed_on {
            dsr::find_passed_on(packet).map_or(0, |found| found.service)
        } else {
            served_by(packet)
        }
    };
    served && (asked || dials() == flow.service)
}

/// The service that has the packet's destination now; 0 for none.
#[inline(never)] // Verified once for each path otherwise.
fn served_by(packet: &Packet) -> u32 {
    service::find(&packet.tuple, || Place::of(&packet.tuple.dst)).map_or(0, |found| found.service)
}

/// Removes both halves; either may be gone already.
#[inline(always)]
fn forget(packet: &mut Packet) {
    packet.key = packet.to.reverse();
    let _ = FLOWS.remove(&packet.tuple);
    let _ = FLOWS.remove(&packet.key);
    packet.to = packet.tuple;
}

/// Writes the other half of the packet's flow again if it was evicted.
#[inline(never)] // Rare, and verified once for each path otherwise.
fn restore_mirror(packet: &mut Packet) {
    /// What both halves say alike.
    const SHARED: u16 = FlowFlags::FORWARD.0
        | FlowFlags::SOURCE_TRANSLATED.0
        | FlowFlags::HOST_CLIENT.0
        | FlowFlags::SEEN.0
        | FlowFlags::ACKED.0;
    packet.key = packet.to.reverse();
    if FLOWS.get_ptr(&packet.key).is_some() {
        return;
    }
    let flags = packet.flow.flags;
    packet.flow.to = packet.tuple.reverse();
    packet.flow.flags = FlowFlags((flags.0 & SHARED) ^ FlowFlags::FORWARD.0);
    packet.flow.packets = 0;
    packet.flow.bytes = 0;
    if FLOWS.insert(&packet.key, &packet.flow, BPF_NOEXIST.into()).is_ok() {
        count(Outcome::FlowRestored);
    }
    packet.flow.flags = flags;
}

/// Decides a new flow to `frontend`: chooses a backend, claims the tuple of the answers, and sets
/// [`Packet::to`]. Returns where the backend lives; `None` if no answers will come by here, since the
/// packet is to be passed on.
#[inline(always)]
pub(crate) fn open(
    packet: &mut Packet,
    skb: Skb,
    hook: Hook,
    frontend: &Frontend,
) -> Result<Option<Place>, Outcome> {
    let place = match choose(packet, hook, skb.device(), frontend) {
        Ok(place) => place,
        Err(outcome) => {
            if matches!(outcome, Outcome::DroppedNoLocalEndpoint | Outcome::RejectedNoEndpoint) {
                count_service(frontend.service, |stats| stats.refused += 1);
            }
            return Err(outcome);
        }
    };
    if hook == Hook::FromUplink {
        return Ok(dsr::settle(packet, skb.length(), frontend)?.then_some(place));
    }
    if masquerade::hides(packet, skb, hook) {
        packet.to.src = masquerade::address(&packet.to.dst);
        packet.flow.flags = packet.flow.flags.with(FlowFlags::SOURCE_TRANSLATED);
    }
    settle(packet, skb.length())?;
    Ok(Some(place))
}

/// Chooses the backend of a new flow to `frontend` and the source that it sees, but for its port.
/// `device` is where the packet came in or leaves. Returns where the backend lives.
#[inline(always)]
pub(crate) fn choose(
    packet: &mut Packet,
    hook: Hook,
    device: u32,
    frontend: &Frontend,
) -> Result<Place, Outcome> {
    let client = Client::of(&packet.tuple.src, hook, device);
    if !service::admits(frontend, &packet.tuple.src) {
        return Err(Outcome::DroppedSourceRange);
    }
    let list = client.list(frontend);
    if list.count == 0 {
        return Err(if client.drops(frontend.flags) {
            Outcome::DroppedNoLocalEndpoint
        } else {
            Outcome::RejectedNoEndpoint
        });
    }
    let (id, backend) = service::select(frontend, list, &packet.tuple.src, Some(&packet.tuple))
        .ok_or(Outcome::RejectedNoEndpoint)?;
    packet.to.dst = backend.addr;
    packet.to.ports.dst = backend.port;
    let config = config().ok_or(Outcome::DroppedNoPort)?;
    let place = Place::of(&backend.addr);
    let target = place.here();
    let masquerade = client.masqueraded(frontend.flags);
    let source = source(packet, hook, backend, target, masquerade, config);
    let mut flags = FlowFlags::FORWARD;
    if target.is_some_and(|target| target.kind == AddressKind::POD) {
        flags = flags.with(FlowFlags::TO_POD);
    }
    if client == Client::Host {
        flags = flags.with(FlowFlags::HOST_CLIENT);
    }
    if let Some(source) = source {
        packet.to.src = source;
        flags = flags.with(FlowFlags::SOURCE_TRANSLATED);
    }
    let flow = &mut packet.flow;
    flow.last_seen = now();
    flow.service = frontend.service;
    flow.backend = id;
    flow.device = device;
    flow.flags = flags;
    flow.pad = 0;
    Ok(place)
}

/// Claims what was chosen. A `length` of 0 is that of a packet that will be noted later.
#[inline(always)]
pub(crate) fn settle(packet: &mut Packet, length: u32) -> Result<(), Outcome> {
    claimed(claim_halves(packet, length))?;
    note_opened(packet);
    Ok(())
}

/// Notes that a flow to a service was opened.
#[inline(always)]
pub(crate) fn note_opened(packet: &mut Packet) {
    packet.known = true;
    count(Outcome::FlowCreated);
    count_service(packet.flow.service, |stats| stats.flows += 1);
}

/// The source address that the flow leaves with, if it is not the client's own.
#[inline(always)]
fn source(
    packet: &Packet,
    hook: Hook,
    backend: &Backend,
    target: Option<&Address>,
    masquerade: bool,
    config: &Config,
) -> Option<Addr> {
    let here = target.is_some_and(|target| target.kind == AddressKind::HOST);
    if hook == Hook::ToUplink {
        // A host client's source is the node's already. When the backend is on this very node the
        // packet must come back in, and the kernel takes none from itself unless we have asked it
        // to: otherwise the client appears there under the address that it dialled.
        let returns = config.flags.has(ConfigFlags::LOOPBACK);
        return (here && !returns).then_some(packet.tuple.dst);
    }
    // What ends on the node itself keeps its source: netfilter has no hook there either.
    if here || !(masquerade || backend.addr == packet.tuple.src) {
        return None;
    }
    match target {
        Some(pod) if !pod.gateway.is_unspecified() => Some(pod.gateway),
        _ if backend.addr.is_v4() => Some(config.node_v4),
        _ => Some(config.node_v6),
    }
}

/// Whether the packet's flow belongs to a pod whose packets were translated where they left it: what
/// comes by on its way through the stack only looks like a packet of that flow.
#[inline(always)]
pub(crate) fn is_done(packet: &Packet, hook: Hook) -> bool {
    let whose = FlowFlags::FORWARD.0 | FlowFlags::HOST_CLIENT.0;
    hook == Hook::ToUplink && packet.flow.flags.0 & whose == FlowFlags::FORWARD.0
}

/// Whether the packet opens a plain connection, or may, and is met here for the first time.
///
/// What ends on this node comes from outside by the uplink. The node's own processes reach its pods
/// past it: there the pod's side meets them first, unless it was we who sent the packet.
#[inline(always)]
pub(crate) fn may_clash(packet: &Packet, skb: Skb, hook: Hook, place: Place) -> bool {
    matches!(packet.transport, Transport::Whole | Transport::Echo)
        && (packet.opens() || packet.tuple.protocol != Protocol::TCP)
        && match hook {
            Hook::FromPod => true,
            Hook::FromUplink => matches!(place, Place::Pod(_) | Place::Host(_)),
            Hook::ToPod => skb.mark() != MARK && is_host(&packet.tuple.src),
            Hook::ToUplink => is_host(&packet.tuple.src),
        }
}

/// Whether the answers to a plain connection would be taken for those of a flow: its client uses one
/// port for a service and for the backend that it got there.
#[inline(always)]
pub(crate) fn clashes(packet: &mut Packet) -> bool {
    packet.key = packet.tuple.reverse();
    // SAFETY: read at once.
    unsafe { FLOWS.get(&packet.key) }.is_some_and(|flow| !flow.flags.has(FlowFlags::STACK))
}

/// Gives a plain connection another source: the node's address if it goes to the `outside`; another port
/// if it [clashes].
#[inline(always)]
pub(crate) fn change_source(
    packet: &mut Packet,
    skb: Skb,
    hook: Hook,
    outside: bool,
) -> Result<(), Outcome> {
    if outside {
        packet.to.src = masquerade::address(&packet.tuple.dst);
    }
    let flow = &mut packet.flow;
    flow.last_seen = now();
    flow.service = 0;
    flow.backend = 0;
    flow.device = skb.device();
    flow.flags = FlowFlags::FORWARD.with(FlowFlags::SOURCE_TRANSLATED);
    if matches!(hook, Hook::ToPod | Hook::ToUplink) {
        flow.flags = flow.flags.with(FlowFlags::HOST_CLIENT);
    }
    flow.pad = 0;
    claimed(claim_halves(packet, skb.length()))?;
    packet.known = true;
    count(if outside { Outcome::Masqueraded } else { Outcome::FlowCreated });
    Ok(())
}

/// What [`claim_halves`] has returned.
#[inline(always)]
pub(crate) fn claimed(outcome: u32) -> Result<(), Outcome> {
    const NO_PORT: u32 = Outcome::DroppedNoPort as u32;
    match outcome {
        0 => Ok(()),
        NO_PORT => Err(Outcome::DroppedNoPort),
        _ => Err(Outcome::DroppedFlowTable),
    }
}

/// Writes both halves of [`Packet::flow`]. The half for the answers is the lock: while its tuple is
/// taken, another source port is tried. Returns 0, or the number of the outcome. `length` is the
/// packet's, in bytes.
///
/// Exported, which makes it a global function: the verifier looks at its loop once, and not once for
/// each path that leads to it.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn claim_halves(packet: *mut Packet, length: u32) -> u32 {
    // SAFETY: null, for all that the verifier knows, or the packet at hand.
    let Some(packet) = (unsafe { packet.as_mut() }) else { return Outcome::DroppedNoPort as u32 };
    let Some(config) = config() else { return Outcome::DroppedNoPort as u32 };
    let ports = u32::from(config.port_max.wrapping_sub(config.port_min)) + 1;
    let flags = packet.flow.flags;
    let keep_port = !flags.has(FlowFlags::SOURCE_TRANSLATED);
    packet.flow.to = packet.tuple.reverse();
    packet.flow.flags = FlowFlags(flags.0 & !FlowFlags::FORWARD.0);
    packet.flow.packets = 0;
    packet.flow.bytes = 0;
    let mut claimed = false;
    for attempt in 0..PORT_ATTEMPTS {
        if attempt > 0 || !keep_port {
            packet.to.ports.src = Be16::new(config.port_min.wrapping_add(random(ports) as u16));
        }
        packet.key = packet.to.reverse();
        claimed = FLOWS.insert(&packet.key, &packet.flow, BPF_NOEXIST.into()).is_ok()
            || is_ours(packet)
            || (attempt >= FREE_PORT_ATTEMPTS && inherit(packet) != 0);
        if claimed {
            break;
        }
    }
    if !claimed {
        return Outcome::DroppedNoPort as u32;
    }
    packet.flow.to = packet.to;
    packet.flow.flags = flags.with(FlowFlags::SEEN).with(seen(packet.tcp));
    packet.flow.packets = u64::from(length != 0);
    packet.flow.bytes = u64::from(length);
    if FLOWS.insert(&packet.tuple, &packet.flow, 0).is_err() {
        // Best effort: an answer that comes is translated, and the entry ages.
        let _ = FLOWS.remove(&packet.key);
        return Outcome::DroppedFlowTable as u32;
    }
    0
}

/// Whether the half that stands in the way is this flow's own, its other half having been evicted.
#[inline(always)]
fn is_ours(packet: &Packet) -> bool {
    // SAFETY: compared at once.
    unsafe { FLOWS.get(&packet.key) }.is_some_and(|flow| flow.to == packet.flow.to)
}

/// Takes the tuple over from a TCP connection that has ended. Of those who try it at once, only one
/// succeeds in removing the client's half; that half is the lock here.
///
/// Exported, which makes it a global function: the verifier looks at it by itself and once, and not
/// once for each attempt.
#[unsafe(no_mangle)]
extern "C" fn inherit(packet: *const Packet) -> i32 {
    // SAFETY: null, for all that the verifier knows, or the packet at hand.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    // SAFETY: read at once.
    let Some(old) = (unsafe { FLOWS.get(&packet.key) }) else { return 0 };
    let (client, answers) = old.mirror_of(&packet.key);
    // SAFETY: read at once.
    let Some(mirror) = (unsafe { FLOWS.get(&client) }) else { return 0 };
    let (any, both) = (old.flags.0 | mirror.flags.0, old.flags.0 & mirror.flags.0);
    let over = any & FlowFlags::RST.0 != 0 || both & FlowFlags::FIN.0 != 0;
    let taken = over
        && mirror.to == answers
        && FLOWS.remove(&client).is_ok()
        && FLOWS.insert(&packet.key, &packet.flow, 0).is_ok();
    taken.into()
}

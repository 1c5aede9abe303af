//! The kernel programs: service translation and pod routing.
//!
//! A packet is [parsed](packet), looked up among the [flows](flow) and, if it opens one, among the
//! [frontends](service), and [carried on](forward). The [socket hooks](socket) do the same for
//! processes of the node before there is a packet, and [XDP](xdp) does it for [what only passes
//! through](transit) before there is a packet buffer.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg(target_arch = "bpf")]

mod dsr;
mod fib;
mod flow;
mod forward;
mod frame;
mod hook;
mod icmp;
mod log;
mod maps;
mod masquerade;
mod packet;
mod parse;
mod place;
mod reject;
mod reset;
mod rewrite;
mod service;
mod skb;
mod socket;
mod sweep;
mod transit;
mod tunnel;
mod xdp;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use datapath_common::{ConfigFlags, FlowFlags, FrontendKey, Outcome};
use hook::Hook;
use packet::{Packet, Transport};
use place::Place;
use skb::{Action, DROP, NEXT, Skb};
use socket::{V4, V6};

#[classifier]
pub(crate) fn from_pod(context: TcContext) -> Action {
    run(&context, Hook::FromPod)
}

#[classifier]
pub(crate) fn to_pod(context: TcContext) -> Action {
    run(&context, Hook::ToPod)
}

#[classifier]
pub(crate) fn from_uplink(context: TcContext) -> Action {
    if Skb::new(&context).mark() == forward::MARK {
        return NEXT;
    }
    run(&context, Hook::FromUplink)
}

#[classifier]
pub(crate) fn to_uplink(context: TcContext) -> Action {
    if Skb::new(&context).mark() == forward::MARK {
        return NEXT;
    }
    run(&context, Hook::ToUplink)
}

/// Before [`from_uplink`], where the operator wants it.
#[xdp]
pub(crate) fn xdp_uplink(context: XdpContext) -> u32 {
    xdp::run(&context)
}

/// Attached nowhere: userspace runs it (`BPF_PROG_TEST_RUN`).
#[classifier]
pub(crate) fn sweep(_context: TcContext) -> i32 {
    sweep::sweep()
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(context: SockAddrContext) -> i32 {
    socket::connect::<V4>(&context)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(context: SockAddrContext) -> i32 {
    socket::connect::<V6>(&context)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(context: SockAddrContext) -> i32 {
    socket::sendmsg::<V4>(&context)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(context: SockAddrContext) -> i32 {
    socket::sendmsg::<V6>(&context)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(context: SockAddrContext) -> i32 {
    socket::restore::<V4>(&context)
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(context: SockAddrContext) -> i32 {
    socket::restore::<V6>(&context)
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(context: SockAddrContext) -> i32 {
    socket::restore::<V4>(&context)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(context: SockAddrContext) -> i32 {
    socket::restore::<V6>(&context)
}

/// The one place where an outcome becomes the kernel's verdict.
#[inline(always)]
fn run(context: &TcContext, hook: Hook) -> Action {
    let skb = Skb::new(context);
    let Some(packet) = maps::PACKET.get_ptr_mut(maps::TC) else { return NEXT };
    // SAFETY: the entry is this CPU's own, and no other program runs on it meanwhile.
    let packet = unsafe { &mut *packet };
    let mut result = handle(packet, skb, hook);
    if hook == Hook::ToUplink && matches!(result, Ok(NEXT)) && tunnel::is_on() {
        result = tunnel::leave(skb.raw(), packet);
    }
    match result {
        Ok(action) => action,
        Err(
            outcome @ (Outcome::RejectedNoEndpoint
            | Outcome::RejectedNoPort
            | Outcome::RejectedTooBig),
        ) => {
            maps::count(outcome);
            log::refused(context, packet, outcome);
            let mtu = if outcome == Outcome::RejectedTooBig { packet.mtu } else { 0 };
            if reject::reject(skb.raw(), packet, mtu) == 0 {
                return DROP;
            }
            reject::send_back(skb.raw(), packet, reject::arrives(hook))
        }
        Err(outcome @ Outcome::ResetNoPod) => {
            maps::count(outcome);
            log::refused(context, packet, outcome);
            if reset::reset(skb.raw(), packet) == 0 {
                return DROP;
            }
            reject::send_back(skb.raw(), packet, reject::arrives(hook))
        }
        Err(outcome) => {
            maps::count(outcome);
            log::refused(context, packet, outcome);
            DROP
        }
    }
}

/// A packet of one of the node's own processes: it never comes from the wire.
const HOST_CLIENT: FlowFlags = FlowFlags::FORWARD.with(FlowFlags::HOST_CLIENT);

#[inline(always)]
fn handle(packet: &mut Packet, skb: Skb, hook: Hook) -> Result<Action, Outcome> {
    if packet.parse(skb).is_none() {
        maps::count(Outcome::Passed);
        return Ok(NEXT);
    }
    if hook == Hook::FromUplink && is_martian(packet) {
        return Err(Outcome::DroppedMartian);
    }
    if hook == Hook::FromUplink && tunnel::ends_here(packet) {
        tunnel::unwrap(skb.raw(), packet)?;
        if dsr::admit(packet, skb.length() - skb::ETHERNET) == 0 {
            return Err(Outcome::DroppedSpoofed);
        }
    }
    match packet.transport {
        Transport::Whole | Transport::Echo | Transport::EchoReply | Transport::Later => {
            flow::lookup(packet, skb.length(), hook);
        }
        Transport::IcmpError => icmp::lookup(skb.raw(), packet, hook)?,
        Transport::Orphan | Transport::Malformed | Transport::Other => {}
    }
    let place = Place::of(&packet.to.dst);
    if !packet.known
        && hook == Hook::ToPod
        && let Some(mode) = forward::detour(packet)
    {
        flow::leave_to_stack(packet, mode);
    }
    let for_pods = place.is_pod() || hook == Hook::ToPod;
    let has_ports = matches!(packet.transport, Transport::Whole | Transport::Later);
    let frontend = if packet.known || for_pods || !has_ports {
        None
    } else {
        dsr::frontend_of(packet, hook, || place)
    };
    if !packet.known && frontend.is_none() {
        let outside = masquerade::applies(packet, skb, hook, place);
        if outside
            || flow::may_clash(packet, skb, hook, place)
                && flow::clashes(packet)
                && !(hook == Hook::FromUplink && is_spoofed(packet))
        {
            flow::change_source(packet, skb, hook, outside)?;
        }
    }
    if packet.known {
        if packet.is_for_other_node(hook) {
            return dsr::pass_on(skb, packet);
        }
        if packet.flow.flags.has(FlowFlags::STACK)
            || flow::is_done(packet, hook)
            || forward::is_left_to_far_side(packet, hook, place)
            || masquerade::expires(packet, hook)
        {
            maps::count(Outcome::Passed);
            return Ok(NEXT);
        }
        if hook == Hook::FromUplink && packet.flow.flags.has(HOST_CLIENT) {
            return Err(Outcome::DroppedMartian);
        }
        if packet.transport != Transport::IcmpError {
            maps::count(Outcome::FlowTranslated);
        }
        return forward::translate(packet, skb, hook, place);
    }
    if let Some(frontend) = frontend {
        if hook == Hook::FromUplink && is_spoofed(packet) {
            return Err(Outcome::DroppedMartian);
        }
        let Some(place) = flow::open(packet, skb, hook, frontend)? else {
            return dsr::pass_on(skb, packet);
        };
        return forward::translate(packet, skb, hook, place);
    }
    if packet.is_passed_on(hook) {
        return Err(Outcome::DroppedSpoofed);
    }
    if for_pods {
        return forward::carry(packet, skb, hook, place);
    }
    keep_in(packet, place)?;
    forward::keep_from_nobody(packet, skb, hook, place)?;
    maps::count(Outcome::Passed);
    Ok(NEXT)
}

/// Whether the packet carries an address of this node as its source, though it comes from the wire.
/// The kernel keeps such packets out itself (RFC 1812, 5.3.8), unless we have asked it not to.
#[inline(always)]
fn is_martian(packet: &Packet) -> bool {
    maps::config().is_some_and(|config| config.flags.has(ConfigFlags::LOOPBACK))
        && place::is_host(&packet.tuple.src)
}

/// Whether a packet that would open a flow carries a source that nobody on the wire can have. The kernel
/// keeps such packets out (RFC 1812, 5.3.8), but does not see those that we translate and send on.
#[inline(always)]
fn is_spoofed(packet: &Packet) -> bool {
    let src = &packet.tuple.src;
    src.is_loopback() || src.is_nobodys() || place::is_host(src)
}

/// Keeps what is addressed to a service, but served by none, from being routed out of the node.
#[inline(always)]
fn keep_in(packet: &Packet, place: Place) -> Result<(), Outcome> {
    if matches!(place, Place::Host(_)) {
        return Ok(());
    }
    if maps::frontend(&FrontendKey::any_port(packet.tuple.dst)).is_some() {
        return Err(match packet.transport {
            Transport::Orphan => Outcome::DroppedFragment,
            Transport::Malformed => Outcome::DroppedMalformed,
            _ => Outcome::RejectedNoPort,
        });
    }
    match place {
        Place::Service => Err(Outcome::DroppedUnallocated),
        _ => Ok(()),
    }
}

/// The programs are loaded into the kernel as GPL-compatible, which the helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier rejects a program that could panic.
    loop {}
}

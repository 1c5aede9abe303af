//! Translation before there is a packet: a process that dials a frontend gets a backend.
//!
//! The hooks take only what they can decide exactly as the tc programs would. Left to those are:
//! connected datagram sockets (their backend may go while they are connected), session affinity and
//! source ranges (the source address is not known yet), and pods whose source must be masqueraded,
//! or that may not count as pods, which their packets alone tell.
//! What a host process sends to its own node never meets tc; that they decide alone.

use crate::{
    maps::{SOCKETS, address, backend, config, count, count_service, frontend},
    service::{self, Client},
};
use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use datapath_common::{
    Addr, Address, AddressKind, Be16, ConfigFlags, Frontend, FrontendFlags, FrontendKey, Outcome,
    Protocol, SocketKey, SocketPeer,
};

/// Let the call go on.
const ALLOW: i32 = 1;
/// Let the call fail.
const DENY: i32 = 0;

/// An address and port of a socket call.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    addr: Addr,
    port: Be16,
}

/// Reads and writes the address of the call at hand.
///
/// The functions of the two families stay apart (`inline(never)`), or the compiler merges their
/// reads into one with a computed offset.
/// VERIFIER: dereference of modified ctx ptr R1 off=4 disallowed
pub(crate) trait Family {
    fn read(context: *mut bpf_sock_addr, into: &mut Endpoint);
    fn write(context: *mut bpf_sock_addr, from: &Endpoint);
}

pub(crate) struct V4;
pub(crate) struct V6;

impl Family for V4 {
    #[inline(always)]
    fn read(context: *mut bpf_sock_addr, into: &mut Endpoint) {
        // SAFETY: a valid context, in a program of this family.
        let (addr, port) = unsafe { ((*context).user_ip4, (*context).user_port) };
        *into = Endpoint { addr: Addr::from_v4_word(addr), port: Be16(port as u16) };
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, from: &Endpoint) {
        // SAFETY: as above.
        unsafe {
            (*context).user_ip4 = from.addr.v4_word();
            (*context).user_port = u32::from(from.port.0);
        }
    }
}

impl Family for V6 {
    #[inline(always)]
    fn read(context: *mut bpf_sock_addr, into: &mut Endpoint) {
        // SAFETY: as above. An IPv4-mapped address is in the form that the maps have.
        let (addr, port) = unsafe {
            let ip = &raw const (*context).user_ip6;
            let words = [
                ip.cast::<u32>().read_volatile(),
                ip.cast::<u32>().add(1).read_volatile(),
                ip.cast::<u32>().add(2).read_volatile(),
                ip.cast::<u32>().add(3).read_volatile(),
            ];
            (words, (*context).user_port)
        };
        *into = Endpoint { addr: Addr(addr), port: Be16(port as u16) };
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, from: &Endpoint) {
        // SAFETY: as above.
        unsafe {
            let ip = (&raw mut (*context).user_ip6).cast::<u32>();
            ip.write_volatile(from.addr.0[0]);
            ip.add(1).write_volatile(from.addr.0[1]);
            ip.add(2).write_volatile(from.addr.0[2]);
            ip.add(3).write_volatile(from.addr.0[3]);
            (*context).user_port = u32::from(from.port.0);
        }
    }
}

/// `connect`: a stream gets its backend for good. So does a connected datagram socket, but only if no
/// tc program would ever see its packets.
#[inline(always)]
pub(crate) fn connect<F: Family>(context: &SockAddrContext) -> i32 {
    // SAFETY: a valid context.
    let protocol = Protocol(unsafe { (*context.sock_addr).protocol } as u8);
    let mut dialled = Endpoint { addr: Addr([0; 4]), port: Be16(0) };
    F::read(context.sock_addr, &mut dialled);
    let client = client(context);
    let Some(found) = find(&dialled, protocol, client) else {
        let owned = frontend(&FrontendKey::any_port(dialled.addr)).is_some();
        return if owned && protocol == Protocol::TCP { refuse() } else { ALLOW };
    };
    if !found.certain {
        return ALLOW;
    }
    if protocol == Protocol::TCP && found.refuses(client) {
        count_service(found.frontend.service, |stats| stats.refused += 1);
        return refuse();
    }
    if !found.is_ours(client) || (protocol != Protocol::TCP && !found.stays_inside) {
        return ALLOW;
    }
    let Some((id, peer)) = found.choose(client, &dialled) else { return ALLOW };
    remember(cookie(context), &peer, &dialled, id);
    F::write(context.sock_addr, &peer);
    count(Outcome::SocketConnected);
    ALLOW
}

/// `sendmsg` with an address: a datagram keeps going to the backend of the one before it, as long
/// as that serves what is dialled.
#[inline(always)]
pub(crate) fn sendmsg<F: Family>(context: &SockAddrContext) -> i32 {
    let mut dialled = Endpoint { addr: Addr([0; 4]), port: Be16(0) };
    F::read(context.sock_addr, &mut dialled);
    let client = client(context);
    let Some(found) = find(&dialled, Protocol::UDP, client) else { return ALLOW };
    let cookie = cookie(context);
    let (id, peer) = match recall(cookie, &dialled) {
        Some(known) if found.is_served_by(known.backend) => {
            (known.backend, Endpoint { addr: known.addr, port: known.port })
        }
        _ => {
            if !found.certain || !found.is_ours(client) {
                return ALLOW;
            }
            let Some((id, peer)) = found.choose(client, &dialled) else { return ALLOW };
            remember(cookie, &dialled, &peer, id);
            (id, peer)
        }
    };
    if recall(cookie, &peer).is_none() {
        remember(cookie, &peer, &dialled, id);
    }
    F::write(context.sock_addr, &peer);
    count(Outcome::SocketSent);
    ALLOW
}

/// `recvmsg` and `getpeername`: the process sees the address that it dialled.
#[inline(always)]
pub(crate) fn restore<F: Family>(context: &SockAddrContext) -> i32 {
    let mut peer = Endpoint { addr: Addr([0; 4]), port: Be16(0) };
    F::read(context.sock_addr, &mut peer);
    if let Some(known) = recall(cookie(context), &peer) {
        F::write(context.sock_addr, &Endpoint { addr: known.addr, port: known.port });
    }
    ALLOW
}

/// The frontend that was dialled.
struct Found {
    frontend: &'static Frontend,
    /// Whether the packets of the call would never leave the node: a host process has dialled an
    /// address of its own node. The tc programs see none of them.
    stays_inside: bool,
    /// Whether it is known how the client counts, or does not matter.
    certain: bool,
}

impl Found {
    /// Whether the backend still serves what was dialled, though it may be in no list any more.
    #[inline(always)]
    fn is_served_by(&self, id: u32) -> bool {
        backend(id).is_some_and(|backend| backend.service == self.frontend.service)
    }

    /// Whether the choice is for the socket hooks: the tc programs would leave the client's source
    /// as it is and need not know it, or they do not get to choose.
    #[inline(always)]
    fn is_ours(&self, client: Client) -> bool {
        let flags = self.frontend.flags;
        let as_tc_would = self.frontend.affinity == 0
            && !flags.has(FrontendFlags::SOURCE_RANGES)
            && (client == Client::Host || !client.masqueraded(flags));
        client.list(self.frontend).count != 0 && (as_tc_would || self.stays_inside)
    }

    /// Whether the client is told at once that nobody serves it. One whose source may not be
    /// admitted is not: only the tc programs know the source.
    #[inline(always)]
    fn refuses(&self, client: Client) -> bool {
        let flags = self.frontend.flags;
        client.list(self.frontend).count == 0
            && !client.drops(flags)
            && !flags.has(FrontendFlags::SOURCE_RANGES)
    }

    /// A backend for the client. Where affinity counts here, the client's address is the one that
    /// it dialled: so the kernel answers from an address of its own.
    #[inline(always)]
    fn choose(&self, client: Client, dialled: &Endpoint) -> Option<(u32, Endpoint)> {
        let list = client.list(self.frontend);
        let (id, chosen) = service::select(self.frontend, list, &dialled.addr, None)?;
        count_service(self.frontend.service, |stats| stats.sockets += 1);
        Some((id, Endpoint { addr: chosen.addr, port: chosen.port }))
    }
}

/// Looks the frontend up. Node ports and host ports of this node also answer on its loopback
/// addresses, where only we can serve them.
#[inline(always)]
fn find(dialled: &Endpoint, protocol: Protocol, client: Client) -> Option<Found> {
    let key = FrontendKey::new(dialled.addr, dialled.port, protocol);
    let (inside, node_ports) = match address(&dialled.addr) {
        Some(here) => {
            let host = here.kind == AddressKind::HOST;
            (host, host && here.flags & Address::NODE_PORT != 0)
        }
        // A pod's loopback addresses are its own.
        None if dialled.addr.is_loopback() && client != Client::Host => return None,
        None => {
            let loopback = dialled.addr.is_loopback();
            (loopback, loopback && serves_localhost(&dialled.addr))
        }
    };
    let found = match frontend(&key) {
        None if node_ports => service::node_port(&key),
        found => found,
    };
    let frontend = found?;
    Some(Found {
        frontend,
        stays_inside: inside && client == Client::Host,
        certain: client == Client::Host
            || all_pods_count(&dialled.addr)
            || Client::Pod.is_as(Client::Outside, frontend),
    })
}

/// Whether every process in a pod of this node counts as one.
#[inline(always)]
fn all_pods_count(addr: &Addr) -> bool {
    let flag = if addr.is_v4() { ConfigFlags::ALL_PODS_V4 } else { ConfigFlags::ALL_PODS_V6 };
    config().is_some_and(|config| config.flags.has(flag))
}

/// Whether node ports are served on the loopback addresses of the address's family.
#[inline(always)]
fn serves_localhost(addr: &Addr) -> bool {
    let flag = if addr.is_v4() { ConfigFlags::LOCALHOST_V4 } else { ConfigFlags::LOCALHOST_V6 };
    config().is_some_and(|config| config.flags.has(flag))
}

#[inline(always)]
fn client(context: &SockAddrContext) -> Client {
    // SAFETY: a plain call with a valid context.
    let netns = unsafe { bpf_get_netns_cookie(context.as_ptr()) };
    if config().is_some_and(|config| config.host_netns == netns) {
        Client::Host
    } else {
        Client::Pod
    }
}

#[inline(always)]
fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: a plain call with a valid context.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

#[inline(always)]
fn key(cookie: u64, endpoint: &Endpoint) -> SocketKey {
    SocketKey { cookie, addr: endpoint.addr, port: endpoint.port, pad: [0; 6] }
}

#[inline(always)]
fn recall(cookie: u64, endpoint: &Endpoint) -> Option<SocketPeer> {
    // SAFETY: copied at once.
    unsafe { SOCKETS.get(&key(cookie, endpoint)) }.copied()
}

#[inline(always)]
fn remember(cookie: u64, from: &Endpoint, to: &Endpoint, backend: u32) {
    let peer = SocketPeer { addr: to.addr, port: to.port, pad: [0; 2], backend };
    // Best effort: a full table costs the process the sight of the address that it dialled.
    let _ = SOCKETS.insert(&key(cookie, from), &peer, 0);
}

/// Whether the kernel lets us choose the error of a call; the loader knows. On one that does not, the
/// branch below is dead, and the verifier never meets the helper.
#[unsafe(no_mangle)]
static CAN_REFUSE: Global<u32> = Global::new(1);

/// Lets the call fail at once with `ECONNREFUSED`, as a pod sees it that gets an ICMP error. Where
/// that cannot be, the call goes on, and the tc programs answer its first packet with that error.
#[inline(always)]
fn refuse() -> i32 {
    const ECONNREFUSED: i32 = 111;
    if CAN_REFUSE.load() == 0 {
        return ALLOW;
    }
    count(Outcome::SocketRefused);
    // SAFETY: a plain call.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    DENY
}

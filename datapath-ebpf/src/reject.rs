//! Refusing a packet the way kube-proxy does: destination unreachable, port unreachable (ICMP type
//! 3 code 3, ICMPv6 type 1 code 4), for every protocol. And telling the sender of one that is too
//! big for its way what fits (RFC 1191, RFC 8201): type 3 code 4, ICMPv6 type 2.

use crate::{
    forward,
    hook::Hook,
    maps::address,
    packet::{Ipv4, Ipv6, Packet, Transport},
    place::Place,
    skb::{Action, DROP, ETHERNET, Failed, Skb},
    tunnel,
};
use aya_ebpf::bindings::__sk_buff;
use bytemuck::{Pod, Zeroable};
use datapath_common::{Addr, Protocol, checksum::fold};

/// Time to live of the packets that we make.
pub(crate) const TTL: u8 = 64;

/// An ICMP or ICMPv6 error's own header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    /// What fits, in a packet about one that is too big; else unused.
    mtu: u32,
}

/// What is put in front of the quoted packet.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Error4 {
    ip: Ipv4,
    icmp: Icmp,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Error6 {
    ip: Ipv6,
    icmp: Icmp,
}

/// Turns the packet into the error about it, which [`send_back`] sends; 0 where no error may be sent:
/// about another error, or about what is no whole packet (RFC 1122, 3.2.2).
#[inline(never)] // Rare, large, and the same for every hook.
pub(crate) fn reject(context: *mut __sk_buff, packet: &mut Packet, mtu: u32) -> i32 {
    let skb = Skb::from_raw(context);
    packet.mtu = mtu;
    let whole = packet.transport.has_ports() || packet.transport == Transport::Other;
    let built = match (packet.tuple.protocol, packet.tuple.dst.is_v4()) {
        _ if !whole => Err(Failed),
        (Protocol::TCP, true) => ipv4::<10>(packet, skb),
        (Protocol::TCP, false) => ipv6::<15>(packet, skb),
        (_, true) => ipv4::<7>(packet, skb),
        // Quoted up to the ports also behind a fragment header.
        (_, false) if mtu != 0 => ipv6::<15>(packet, skb),
        (_, false) => ipv6::<12>(packet, skb),
    };
    built.is_ok().into()
}

/// Sends what was made of the packet back to its sender, by the way that the packet came; wrapped where
/// that is a pod behind a tunnel, straight to a client whose packet another node has passed on.
#[inline(never)] // Rare. Not called from where the answer is made, whose stack is deep.
pub(crate) fn send_back(context: *mut __sk_buff, packet: &Packet, arrives: u32) -> Action {
    sent_back(Skb::from_raw(context), packet, arrives).unwrap_or(DROP)
}

#[inline(always)]
fn sent_back(skb: Skb, packet: &Packet, arrives: u32) -> Result<Action, Failed> {
    if arrives != 0 {
        return forward::arrive(skb, skb.device());
    }
    if let Place::Tunnel(route) = Place::of(&packet.tuple.src) {
        tunnel::wrap_again(skb.raw(), route).map_err(|_outcome| Failed)?;
        // The routing table is asked by the family that the kernel takes the packet for.
        if skb.device() != route.device {
            return Ok(tunnel::send(skb, route));
        }
    }
    skb.set_mark(forward::MARK);
    if packet.passed_on {
        // The other node would take it for its own: the source is what the client has dialled.
        return Ok(skb.redirect_routed(skb.device()));
    }
    turn_round(skb)?;
    Ok(skb.redirect_out(skb.device()))
}

/// How [`send_back`] sends: what goes to a host client comes in by the uplink.
pub(crate) fn arrives(hook: Hook) -> u32 {
    u32::from(hook == Hook::ToUplink)
}

/// `WORDS` 32-bit words of the packet are quoted: its header without options, and of TCP all that a
/// checksum in hardware would write to.
#[inline(always)]
fn ipv4<const WORDS: usize>(packet: &Packet, skb: Skb) -> Result<(), Failed> {
    if packet.l4 != ETHERNET + 20 {
        return Err(Failed);
    }
    let quoted = WORDS as u32 * 4;
    let code = if packet.mtu == 0 { 3 } else { 4 };
    let icmp = error(3, code, packet.mtu, sum::<WORDS>(skb)?);
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        length: (28 + quoted as u16).to_be(),
        id: 0,
        fragment: 0x4000_u16.to_be(),
        ttl: TTL,
        protocol: Protocol::ICMP,
        checksum: 0,
        src: sender(packet).v4_word(),
        dst: packet.tuple.src.v4_word(),
    };
    ip.checksum =
        fold(bytemuck::cast::<Ipv4, [u32; 5]>(ip).iter().map(|word| u64::from(*word)).sum());
    skb.trim(ETHERNET + quoted)?;
    skb.make_room(28)?;
    skb.store(ETHERNET, &Error4 { ip, icmp }, 0)
}

/// As [`ipv4`]; the checksum also covers the pseudo header (RFC 8200, 8.1).
#[inline(always)]
fn ipv6<const WORDS: usize>(packet: &Packet, skb: Skb) -> Result<(), Failed> {
    if packet.l4 != ETHERNET + 40 && packet.mtu == 0 {
        return Err(Failed);
    }
    let quoted = WORDS as u32 * 4;
    let length = 8 + quoted as u16;
    let mut covered = sum::<WORDS>(skb)?;
    let sender = sender(packet);
    for index in 0..4 {
        covered += u64::from(packet.tuple.src.0[index]) + u64::from(sender.0[index]);
    }
    covered += u64::from(length.to_be()) + u64::from(u16::from(Protocol::ICMPV6.0).to_be());
    let (kind, code) = if packet.mtu == 0 { (1, 4) } else { (2, 0) };
    let icmp = error(kind, code, packet.mtu, covered);
    let ip = Ipv6 {
        version_flow: (6_u32 << 28).to_be(),
        length: length.to_be(),
        next: Protocol::ICMPV6,
        hop_limit: TTL,
        src: sender,
        dst: packet.tuple.src,
    };
    skb.trim(ETHERNET + quoted)?;
    skb.make_room(48)?;
    skb.store(ETHERNET, &Error6 { ip, icmp }, 0)
}

/// The sum of the first `WORDS` words of the IP packet.
#[inline(always)]
fn sum<const WORDS: usize>(skb: Skb) -> Result<u64, Failed>
where
    [u32; WORDS]: Pod,
{
    let words: [u32; WORDS] = skb.load(ETHERNET)?;
    Ok(words.iter().map(|word| u64::from(*word)).sum())
}

#[inline(always)]
fn error(kind: u8, code: u8, mtu: u32, covered: u64) -> Icmp {
    let mtu = mtu.to_be();
    let own = u64::from(u16::from_ne_bytes([kind, code])) + u64::from(mtu);
    Icmp { kind, code, checksum: fold(covered + own), mtu }
}

/// Whom the error is from: whom the client has dialled. What is too big, the pod's own gateway says.
#[inline(always)]
fn sender(packet: &Packet) -> Addr {
    let gateway = address(&packet.tuple.src).map(|pod| pod.gateway);
    match gateway.filter(|gateway| packet.mtu != 0 && !gateway.is_unspecified()) {
        Some(gateway) => gateway,
        None => packet.tuple.dst,
    }
}

/// Swaps the frame's MAC addresses.
#[inline(always)]
fn turn_round(skb: Skb) -> Result<(), Failed> {
    let [dst, src]: [[u8; 6]; 2] = skb.load(0)?;
    skb.store(0, &[src, dst], 0)
}

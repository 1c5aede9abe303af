//! Telling the sender of a segment that the other end of its connection is gone: a reset, as a host
//! without that connection would send it (RFC 9293, 3.10.7.1).

use crate::{
    flow,
    packet::{ACK, FIN, Ipv4, Ipv6, Packet, RST, Tcp},
    reject::TTL,
    skb::{ETHERNET, Failed, Skb},
};
use bytemuck::{Pod, Zeroable};
use datapath_common::{Ports, Protocol, checksum::fold};

/// Length of a TCP header without options.
const HEADER: u16 = 20;

/// A whole TCP header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Segment {
    start: Tcp,
    checksum: u16,
    urgent: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Reset4 {
    ip: Ipv4,
    tcp: Segment,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Reset6 {
    ip: Ipv6,
    tcp: Segment,
}

/// Turns the segment into the reset that answers it, for `reject::send_back`; 0 if that cannot be.
#[inline(never)] // Rare, large, and the same for every hook.
pub(crate) fn reset(context: *mut aya_ebpf::bindings::__sk_buff, packet: &mut Packet) -> i32 {
    let skb = Skb::from_raw(context);
    flow::note_reset(packet);
    let built = if packet.tuple.dst.is_v4() { ipv4(packet, skb) } else { ipv6(packet, skb) };
    built.is_ok().into()
}

#[inline(always)]
fn ipv4(packet: &Packet, skb: Skb) -> Result<(), Failed> {
    if packet.l4 != ETHERNET + 20 {
        return Err(Failed);
    }
    let asked: Tcp = skb.load(packet.l4)?;
    let start = answer(packet, &asked);
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        length: (20 + HEADER).to_be(),
        id: 0,
        fragment: 0x4000_u16.to_be(),
        ttl: TTL,
        protocol: Protocol::TCP,
        checksum: 0,
        src: packet.tuple.dst.v4_word(),
        dst: packet.tuple.src.v4_word(),
    };
    let cut = skb.trim(packet.l4 + u32::from(HEADER)).is_ok();
    if !cut {
        ip.length = skb.load::<Ipv4>(ETHERNET)?.length;
    }
    ip.checksum =
        fold(bytemuck::cast::<Ipv4, [u32; 5]>(ip).iter().map(|word| u64::from(*word)).sum());
    if cut {
        return skb.store(ETHERNET, &Reset4 { ip, tcp: alone(packet, start) }, 0);
    }
    skb.store(ETHERNET, &ip, 0)?;
    put_before_payload(packet, skb, &asked, start)
}

#[inline(always)]
fn ipv6(packet: &Packet, skb: Skb) -> Result<(), Failed> {
    if packet.l4 != ETHERNET + 40 {
        return Err(Failed);
    }
    let asked: Tcp = skb.load(packet.l4)?;
    let start = answer(packet, &asked);
    let mut ip = Ipv6 {
        version_flow: (6_u32 << 28).to_be(),
        length: HEADER.to_be(),
        next: Protocol::TCP,
        hop_limit: TTL,
        src: packet.tuple.dst,
        dst: packet.tuple.src,
    };
    if skb.trim(packet.l4 + u32::from(HEADER)).is_ok() {
        return skb.store(ETHERNET, &Reset6 { ip, tcp: alone(packet, start) }, 0);
    }
    ip.length = skb.load::<Ipv6>(ETHERNET)?.length;
    skb.store(ETHERNET, &ip, 0)?;
    put_before_payload(packet, skb, &asked, start)
}

/// The start of the answer to the segment `asked`, which has no SYN; without a window, which means
/// nothing in a reset.
#[inline(always)]
fn answer(packet: &Packet, asked: &Tcp) -> Tcp {
    let Ports { src, dst } = packet.tuple.ports;
    let mut start = Tcp {
        ports: Ports { src: dst, dst: src },
        sequence: asked.acknowledgement,
        acknowledgement: 0,
        offset: 0x50,
        flags: RST,
        window: 0,
    };
    if asked.flags & ACK == 0 {
        let length = packet.payload(u32::from(asked.offset >> 4) * 4);
        let next = u32::from_be(asked.sequence)
            .wrapping_add(length)
            .wrapping_add(u32::from(asked.flags & FIN != 0));
        (start.sequence, start.acknowledgement) = (0, next.to_be());
        start.flags = RST | ACK;
    }
    start
}

/// The answer without payload.
///
/// Whether the checksum has still to be completed, by the device that sends the packet, cannot be
/// seen from here. So the field holds the sum over the pseudo header, as it must if it has; and the
/// window is what makes that the right checksum if it has not.
#[inline(always)]
fn alone(packet: &Packet, mut start: Tcp) -> Segment {
    let pseudo = pseudo_header(packet);
    start.window = fold(sum(&start) + 2 * pseudo);
    Segment { start, checksum: !fold(pseudo), urgent: 0 }
}

/// Puts the answer in front of what the segment `asked` carried, which a reset may carry too (RFC 9293,
/// 3.5.3): the kernel does not cut a packet that it still takes for wrapped (`ENOTSUPP` on Linux 6.18), as
/// it does one that has come out of a tunnel and never was on a wire.
///
/// The window makes up for all that has changed, so the checksum stays as it is.
#[inline(always)]
fn put_before_payload(
    packet: &Packet,
    skb: Skb,
    asked: &Tcp,
    mut start: Tcp,
) -> Result<(), Failed> {
    if skb.segment() != 0 {
        // Not for each segment of a train: the first is sent again by itself.
        return Err(Failed);
    }
    let before: u64 = words(asked).iter().map(|word| u64::from(!*word)).sum();
    start.window = fold(sum(&start) + before);
    skb.store(packet.l4, &start, 0)
}

#[inline(always)]
fn words(start: &Tcp) -> [u32; 4] {
    bytemuck::cast(*start)
}

#[inline(always)]
fn sum(start: &Tcp) -> u64 {
    words(start).iter().map(|word| u64::from(*word)).sum()
}

/// The sum over the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1). The words that mark an IPv4 address
/// as such are no part of it.
#[inline(always)]
fn pseudo_header(packet: &Packet) -> u64 {
    let mut sum = u64::from(HEADER.to_be()) + u64::from(u16::from(Protocol::TCP.0).to_be());
    let first = if packet.tuple.dst.is_v4() { 3 } else { 0 };
    for index in 0..4 {
        if index >= first {
            sum += u64::from(packet.tuple.src.0[index]) + u64::from(packet.tuple.dst.0[index]);
        }
    }
    sum
}

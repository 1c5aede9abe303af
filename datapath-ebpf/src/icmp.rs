//! ICMP errors about translated packets: the packet that they quote is put back into the form in
//! which its sender knows it (RFC 792, RFC 4443; RFC 5508 for what a NAT owes to them).

use crate::{
    forward,
    hook::Hook,
    maps::{FLOWS, count},
    packet::{Extension, IDENTIFIER, Ipv4, Ipv6, Packet, Transport, echo_ports},
    place::Place,
    skb::{Failed, Skb},
};
use datapath_common::{Addr, FlowFlags, Outcome, Ports, Protocol, Tuple, checksum::Difference};

/// The quoted packet: where its parts stand, and its tuple.
struct Quote {
    tuple: Tuple,
    ip: u32,
    l4: u32,
    checksum: u16,
}

/// Finds the flow of the packet that an ICMP error quotes, mends the quote and sets [`Packet::to`].
/// An error about no flow, or one that is not to be translated here, stays unknown.
#[inline(never)] // Rare, and its quote would count against the stack of every path.
pub(crate) fn lookup(
    context: *mut aya_ebpf::bindings::__sk_buff,
    packet: &mut Packet,
    hook: Hook,
) -> Result<(), Outcome> {
    let skb = Skb::from_raw(context);
    let Ok(quote) = parse(packet, skb) else { return Ok(()) };
    // The error travels the way of the answers to the quoted packet.
    packet.key = quote.tuple.reverse();
    // SAFETY: copied at once.
    let Some(flow) = (unsafe { FLOWS.get(&packet.key) }) else { return Ok(()) };
    packet.flow = *flow;
    if packet.flow.flags.has(FlowFlags::DSR) {
        // The backend's node knows what it quotes.
        packet.known = hook == Hook::FromUplink;
        if packet.known {
            packet.to = packet.flow.to;
        }
        return Ok(());
    }
    packet.to.dst = packet.flow.to.dst;
    if packet.tuple.src == quote.tuple.dst {
        // It was the far end that sent it, which the sender knows by another address.
        packet.to.src = packet.flow.to.src;
    }
    if forward::is_left_to_far_side(packet, hook, Place::of(&packet.to.dst)) {
        packet.to = packet.tuple;
        return Ok(());
    }
    let inner = packet.flow.to.reverse();
    rewrite(packet, skb, &quote, &inner).map_err(|Failed| Outcome::DroppedRewrite)?;
    packet.known = true;
    count(Outcome::IcmpTranslated);
    Ok(())
}

#[inline(always)]
fn parse(packet: &Packet, skb: Skb) -> Result<Quote, Failed> {
    /// Length of an ICMP error's own header.
    const HEADER: u32 = 8;
    let ip = packet.l4 + HEADER;
    let mut tuple = Tuple::default();
    let (l4, checksum) = if packet.tuple.dst.is_v4() {
        let quoted: Ipv4 = skb.load(ip)?;
        let header = quoted.header_length();
        if header < 20 || quoted.fragment_offset() != 0 {
            return Err(Failed);
        }
        tuple.src = Addr::from_v4_word(quoted.src);
        tuple.dst = Addr::from_v4_word(quoted.dst);
        tuple.protocol = quoted.protocol;
        (ip + header, quoted.checksum)
    } else {
        let quoted: Ipv6 = skb.load(ip)?;
        tuple.src = quoted.src;
        tuple.dst = quoted.dst;
        tuple.protocol = quoted.next;
        let mut l4 = ip + 40;
        if quoted.next.0 == 44 {
            // Its sender has fragmented it (RFC 8200, 4.5); the first fragment has the ports.
            let fragment: Extension = skb.load(l4)?;
            if u16::from_be(fragment.fragment) & 0xfff8 != 0 {
                return Err(Failed);
            }
            tuple.protocol = fragment.next;
            l4 += 8;
        }
        (l4, 0)
    };
    tuple.ports = match tuple.protocol {
        protocol @ (Protocol::ICMP | Protocol::ICMPV6) => {
            let [kind, _]: [u8; 2] = skb.load(l4)?;
            let transport = Transport::of_icmp(protocol, kind);
            if !transport.has_ports() {
                return Err(Failed);
            }
            echo_ports(transport, skb.load(l4 + IDENTIFIER)?)
        }
        protocol => {
            protocol.name().ok_or(Failed)?;
            skb.load::<Ports>(l4)?
        }
    };
    Ok(Quote { tuple, ip, l4, checksum })
}

/// Writes `inner` in place of the quoted tuple and mends every checksum that covers it.
#[inline(always)]
fn rewrite(packet: &Packet, skb: Skb, quote: &Quote, inner: &Tuple) -> Result<(), Failed> {
    let old = &quote.tuple;
    let addresses = Difference::none().addr(old.src, inner.src).addr(old.dst, inner.dst);
    let mut sum = Difference::none()
        .word16(old.ports.src.0, inner.ports.src.0)
        .word16(old.ports.dst.0, inner.ports.dst.0);
    if packet.tuple.dst.is_v4() {
        // The change of the addresses and that of the header's checksum cancel each other out.
        skb.store(quote.ip + 10, &addresses.apply(quote.checksum), 0)?;
        skb.store(quote.ip + 12, &[inner.src.v4_word(), inner.dst.v4_word()], 0)?;
    } else {
        sum = sum.addr(old.src, inner.src).addr(old.dst, inner.dst);
        skb.store(quote.ip + 8, &[inner.src, inner.dst], 0)?;
    }
    let offset = match old.protocol {
        Protocol::ICMP | Protocol::ICMPV6 => {
            skb.store(quote.l4 + IDENTIFIER, &(inner.ports.src.0 | inner.ports.dst.0), 0)?;
            quote.l4 + 2
        }
        protocol => {
            skb.store(quote.l4, &inner.ports, 0)?;
            quote.l4 + if protocol == Protocol::UDP { 6 } else { 16 }
        }
    };
    // A quote may end before the checksum of what it quotes.
    if old.protocol != Protocol::SCTP
        && let Ok(checksum) = skb.load::<u16>(offset)
        && checksum != 0
    {
        let mut change = Difference::none()
            .word16(old.ports.src.0, inner.ports.src.0)
            .word16(old.ports.dst.0, inner.ports.dst.0);
        // ICMP's checksum covers no address (RFC 792).
        if old.protocol != Protocol::ICMP {
            change = change.addr(old.src, inner.src).addr(old.dst, inner.dst);
        }
        let mended = change.apply(checksum);
        skb.store(offset, &mended, 0)?;
        sum = sum.word16(checksum, mended);
    }
    skb.update_checksum(packet.l4 + 2, sum.partial(), 0)
}

//! What the programs read of a packet, and how its addresses and ports are changed.

use crate::{
    maps::FRAGMENTS,
    skb::{ETHERNET, Failed, Skb},
};
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use bytemuck::{Pod, Zeroable};
use datapath_common::{
    Addr, Be16, Flow, Fragment, Outcome, Ports, Protocol, Tuple,
    checksum::{Difference, crc32c_change},
};

const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// TCP flag bits (RFC 9293, 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// An IPv4 header without its options (RFC 791). Words are as in the packet.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: Protocol,
    pub(crate) checksum: u16,
    pub(crate) src: u32,
    pub(crate) dst: u32,
}

impl Ipv4 {
    /// Length of the header in bytes, options included; less than 20 if the header is no header.
    #[inline(always)]
    pub(crate) fn header_length(&self) -> u32 {
        if self.version_ihl >> 4 == 4 { u32::from(self.version_ihl & 0xf) * 4 } else { 0 }
    }

    /// Offset of the fragment in the datagram, in units of eight bytes.
    #[inline(always)]
    pub(crate) fn fragment_offset(&self) -> u16 {
        u16::from_be(self.fragment) & 0x1fff
    }
}

/// The part of an IPv4 header that translation changes, from byte 8 on.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ipv4Tail {
    ttl: u8,
    protocol: Protocol,
    checksum: u16,
    src: u32,
    dst: u32,
}

/// A fixed IPv6 header (RFC 8200, 3).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Ipv6 {
    pub(crate) version_flow: u32,
    pub(crate) length: u16,
    pub(crate) next: Protocol,
    pub(crate) hop_limit: u8,
    pub(crate) src: Addr,
    pub(crate) dst: Addr,
}

impl Ipv6 {
    /// The traffic class.
    #[inline(always)]
    pub(crate) fn class(&self) -> u8 {
        (u32::from_be(self.version_flow) >> 20) as u8
    }
}

/// The part of an IPv6 header that translation changes, from byte 4 on.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ipv6Tail {
    length: u16,
    next: Protocol,
    hop_limit: u8,
    src: Addr,
    dst: Addr,
}

/// The first eight bytes of an IPv6 extension header (RFC 8200, 4).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Extension {
    pub(crate) next: Protocol,
    length: u8,
    pub(crate) fragment: u16,
    id: u32,
}

/// The first sixteen bytes of a TCP header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Tcp {
    pub(crate) ports: Ports,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// Length of the header in its upper four bits, in units of four bytes.
    pub(crate) offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
}

/// What follows the IP header.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A protocol with ports, whose header is in this packet.
    Whole,
    /// An ICMP or ICMPv6 echo request; its ports: [`echo_ports`].
    Echo,
    /// The answer to one.
    EchoReply,
    /// A later fragment of a datagram with ports, or of an echo; they are known from its first fragment.
    Later,
    /// A later fragment whose first fragment was not seen, or whose protocol has no ports.
    Orphan,
    /// An ICMP or ICMPv6 error.
    IcmpError,
    /// Headers that do not fit the packet.
    Malformed,
    /// Anything else.
    Other,
}

impl Transport {
    /// Whether the packet has a header with ports, or what stands for them.
    #[inline(always)]
    pub(crate) const fn has_ports(self) -> bool {
        matches!(self, Self::Whole | Self::Echo | Self::EchoReply)
    }

    /// What the type of an ICMP message says.
    #[inline(always)]
    pub(crate) const fn of_icmp(protocol: Protocol, kind: u8) -> Self {
        match (protocol, kind) {
            // Destination unreachable, time exceeded, parameter problem (RFC 792); the error types
            // that are in use (RFC 4443, 2.1).
            (Protocol::ICMP, 3 | 11 | 12) | (Protocol::ICMPV6, 1..=4) => Self::IcmpError,
            (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => Self::Echo,
            (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => Self::EchoReply,
            _ => Self::Other,
        }
    }
}

/// A parsed packet. It lives in per-CPU memory, since the stack of a program has 512 bytes.
#[repr(C)]
pub(crate) struct Packet {
    /// As it arrived.
    pub(crate) tuple: Tuple,
    /// As it leaves.
    pub(crate) to: Tuple,
    /// The flow that it belongs to, if `known`. Of one that was there before, only flags and device.
    pub(crate) flow: Flow,
    /// Room for a key of the flow table.
    pub(crate) key: Tuple,
    /// Offset of the transport header from the start of the frame.
    pub(crate) l4: u32,
    /// Offset of the end of the IP packet, behind which the frame may be padded.
    end: u32,
    /// Identification of the datagram that a fragment belongs to.
    fragment_id: u32,
    /// What fits, for a packet that is too big.
    pub(crate) mtu: u32,
    /// IPv4: the header's checksum. IPv6: the payload's length.
    checksum_or_length: u16,
    /// IPv6: next header.
    next: Protocol,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// TCP flags.
    pub(crate) tcp: u8,
    /// What follows the IP header.
    pub(crate) transport: Transport,
    /// Whether more fragments follow.
    first_fragment: bool,
    /// Whether the packet is to be translated.
    pub(crate) known: bool,
}

impl Packet {
    /// Reads the headers of `skb`. `None` for what is not IP, or not whole: the kernel's matter.
    #[inline(always)]
    pub(crate) fn parse(&mut self, skb: Skb) -> Option<()> {
        self.tuple.ports = Ports::default();
        self.tuple.pad = [0; 3];
        self.tcp = 0;
        self.first_fragment = false;
        self.known = false;
        let later = match skb.protocol() {
            ETHERTYPE_IPV4 => self.parse_ipv4(skb)?,
            ETHERTYPE_IPV6 => self.parse_ipv6(skb)?,
            _ => return None,
        };
        self.transport = if later {
            self.recall_ports()
        } else {
            self.parse_transport(skb).unwrap_or(Transport::Malformed)
        };
        if self.first_fragment && self.transport.has_ports() {
            let key = self.fragment();
            // Best effort: without the entry the later fragments are counted as orphans.
            let _ = FRAGMENTS.insert(&key, &self.tuple.ports, 0);
        }
        self.to = self.tuple;
        Some(())
    }

    /// Whether this packet opens a TCP connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.tcp & (SYN | ACK) == SYN
    }

    /// Bytes behind a transport header of this length.
    #[inline(always)]
    pub(crate) fn payload(&self, header: u32) -> u32 {
        self.end.saturating_sub(self.l4 + header)
    }

    /// Length of the IP and transport headers of a packet that is to be cut into segments.
    #[inline(always)]
    pub(crate) fn headers(&self, skb: Skb) -> u32 {
        let transport = match self.tuple.protocol {
            Protocol::TCP => {
                let words = skb.load::<[u8; 2]>(self.l4 + 12);
                words.map_or(20, |[offset, _]| offset >> 4 << 2)
            }
            _ => 8,
        };
        self.l4 - ETHERNET + u32::from(transport)
    }

    /// Whether a router may fragment the packet: IPv4 without its "don't fragment".
    #[inline(always)]
    pub(crate) fn may_be_cut(&self, skb: Skb) -> bool {
        const DO_NOT_FRAGMENT: u16 = 0x4000_u16.to_be();
        self.tuple.dst.is_v4()
            && skb.segment() == 0
            && skb.load::<u16>(ETHERNET + 6).is_ok_and(|bits| bits & DO_NOT_FRAGMENT == 0)
    }

    /// Whether this is a part of a datagram whose protocol has no ports.
    #[inline(always)]
    pub(crate) fn is_fragment(&self) -> bool {
        self.first_fragment || self.transport == Transport::Orphan
    }

    /// Returns whether this is a later fragment.
    #[inline(always)]
    fn parse_ipv4(&mut self, skb: Skb) -> Option<bool> {
        const MORE: u16 = 0x2000;
        let ip: Ipv4 = skb.load(ETHERNET).ok()?;
        let header = ip.header_length();
        self.end = ETHERNET + u32::from(u16::from_be(ip.length));
        if header < 20 || skb.length() < self.end {
            return None;
        }
        self.tuple.src = Addr::from_v4_word(ip.src);
        self.tuple.dst = Addr::from_v4_word(ip.dst);
        self.tuple.protocol = ip.protocol;
        self.checksum_or_length = ip.checksum;
        self.ttl = ip.ttl;
        self.l4 = ETHERNET + header;
        self.fragment_id = u32::from(ip.id);
        let later = ip.fragment_offset() != 0;
        self.first_fragment = !later && u16::from_be(ip.fragment) & MORE != 0;
        Some(later)
    }

    /// Returns whether this is a later fragment.
    #[inline(always)]
    fn parse_ipv6(&mut self, skb: Skb) -> Option<bool> {
        /// Longer chains are left to the kernel.
        const EXTENSIONS: usize = 4;
        let ip: Ipv6 = skb.load(ETHERNET).ok()?;
        self.end = ETHERNET + 40 + u32::from(u16::from_be(ip.length));
        if u32::from_be(ip.version_flow) >> 28 != 6 || skb.length() < self.end {
            return None;
        }
        if ip.src.is_v4() || ip.dst.is_v4() {
            // Never on the wire (RFC 4291, 2.5.5.2), and here it would pass for IPv4.
            return None;
        }
        self.tuple.src = ip.src;
        self.tuple.dst = ip.dst;
        self.checksum_or_length = ip.length;
        self.next = ip.next;
        self.ttl = ip.hop_limit;
        let mut protocol = ip.next;
        let mut offset = ETHERNET + 40;
        for _ in 0..EXTENSIONS {
            // Hop-by-hop options, routing, destination options (RFC 8200, 4).
            let options = matches!(protocol.0, 0 | 43 | 60);
            if !options && protocol.0 != 44 {
                break;
            }
            let extension: Extension = skb.load(offset).ok()?;
            protocol = extension.next;
            if options {
                offset += 8 + u32::from(extension.length) * 8;
                continue;
            }
            offset += 8;
            self.fragment_id = extension.id;
            let fragment = u16::from_be(extension.fragment);
            if fragment & 0xfff8 != 0 {
                self.tuple.protocol = protocol;
                self.l4 = offset;
                return Some(true);
            }
            self.first_fragment = fragment & 1 != 0;
        }
        self.tuple.protocol = protocol;
        self.l4 = offset;
        Some(false)
    }

    #[inline(always)]
    fn parse_transport(&mut self, skb: Skb) -> Result<Transport, Failed> {
        match self.tuple.protocol {
            Protocol::TCP => {
                let tcp: Tcp = skb.load(self.l4)?;
                if skb.length() < self.l4 + 20 {
                    return Err(Failed);
                }
                self.tuple.ports = tcp.ports;
                self.tcp = tcp.flags;
            }
            Protocol::UDP | Protocol::SCTP => {
                self.tuple.ports = skb.load(self.l4)?;
                let least = if self.tuple.protocol == Protocol::UDP { 8 } else { 12 };
                if skb.length() < self.l4 + least {
                    return Err(Failed);
                }
            }
            Protocol::ICMP | Protocol::ICMPV6 => {
                let kind: [u8; 4] = skb.load(self.l4)?;
                return self.parse_icmp(skb, kind[0]);
            }
            _ => return Ok(Transport::Other),
        }
        Ok(Transport::Whole)
    }

    #[inline(always)]
    fn parse_icmp(&mut self, skb: Skb, kind: u8) -> Result<Transport, Failed> {
        let transport = Transport::of_icmp(self.tuple.protocol, kind);
        if transport.has_ports() {
            let id = skb.load(self.l4 + IDENTIFIER)?;
            self.tuple.ports = echo_ports(transport, id);
        }
        Ok(transport)
    }

    /// Takes the ports of a later fragment from its first one.
    #[inline(always)]
    fn recall_ports(&mut self) -> Transport {
        let echo = matches!(self.tuple.protocol, Protocol::ICMP | Protocol::ICMPV6);
        if !echo && self.tuple.protocol.name().is_none() {
            return Transport::Orphan;
        }
        let key = self.fragment();
        // SAFETY: the value is copied at once.
        match unsafe { FRAGMENTS.get(&key) } {
            Some(ports) => {
                self.tuple.ports = *ports;
                Transport::Later
            }
            None => Transport::Orphan,
        }
    }

    #[inline(always)]
    fn fragment(&self) -> Fragment {
        Fragment {
            src: self.tuple.src,
            dst: self.tuple.dst,
            id: self.fragment_id,
            protocol: self.tuple.protocol,
            pad: [0; 3],
        }
    }

    /// Writes `to` in place of `tuple`, and the time to live as it is now.
    pub(crate) fn rewrite(&mut self, skb: Skb) -> Result<(), Outcome> {
        self.rewrite_headers(skb).map_err(|Failed| Outcome::DroppedRewrite)
    }

    #[inline(always)]
    fn rewrite_headers(&mut self, skb: Skb) -> Result<(), Failed> {
        let addresses =
            Difference::none().addr(self.tuple.src, self.to.src).addr(self.tuple.dst, self.to.dst);
        self.store_addresses(skb, addresses)?;
        if self.transport == Transport::Later {
            return Ok(());
        }
        let (checksum, zero) = match self.tuple.protocol {
            Protocol::TCP => (self.l4 + 16, 0),
            Protocol::UDP => (self.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
            Protocol::ICMPV6 => (self.l4 + 2, 0),
            _ => (0, 0),
        };
        if checksum != 0 {
            let flags = zero | u64::from(BPF_F_PSEUDO_HDR);
            skb.update_checksum(checksum, addresses.partial(), flags)?;
        }
        if self.tuple.ports != self.to.ports {
            if matches!(self.transport, Transport::Echo | Transport::EchoReply) {
                return self.rewrite_echo(skb);
            }
            skb.store(self.l4, &self.to.ports, 0)?;
            let ports = Difference::none()
                .word16(self.tuple.ports.src.0, self.to.ports.src.0)
                .word16(self.tuple.ports.dst.0, self.to.ports.dst.0);
            if checksum != 0 {
                skb.update_checksum(checksum, ports.partial(), zero)?;
            } else if self.tuple.protocol == Protocol::SCTP {
                self.rewrite_sctp(skb)?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn rewrite_echo(&self, skb: Skb) -> Result<(), Failed> {
        // The port of the end that does not ask is always zero.
        let id = |ports: Ports| ports.src.0 | ports.dst.0;
        let (from, to) = (id(self.tuple.ports), id(self.to.ports));
        skb.store(self.l4 + IDENTIFIER, &to, 0)?;
        let change = Difference::none().word16(from, to);
        skb.update_checksum(self.l4 + 2, change.partial(), 0)
    }

    /// SCTP's checksum covers the ports and everything behind them, but no address.
    #[inline(always)]
    fn rewrite_sctp(&self, skb: Skb) -> Result<(), Failed> {
        let checksum: u32 = skb.load(self.l4 + 8)?;
        let following = self.end.wrapping_sub(self.l4 + 4);
        let [from, to] = [self.tuple.ports, self.to.ports].map(bytemuck::cast);
        let change = sctp_change(from, to, following & 0xffff);
        skb.store(self.l4 + 8, &(checksum ^ change), 0)
    }

    /// The sum over an IPv4 header is always the same, so a hardware checksum of the packet stays
    /// right. IPv6 has no such sum: there the kernel takes the change into account.
    #[inline(always)]
    fn store_addresses(&self, skb: Skb, addresses: Difference) -> Result<(), Failed> {
        if self.tuple.dst.is_v4() {
            let tail = Ipv4Tail {
                ttl: self.ttl,
                protocol: self.tuple.protocol,
                checksum: addresses.apply(self.checksum_or_length),
                src: self.to.src.v4_word(),
                dst: self.to.dst.v4_word(),
            };
            skb.store(ETHERNET + 8, &tail, 0)
        } else {
            let tail = Ipv6Tail {
                length: self.checksum_or_length,
                next: self.next,
                hop_limit: self.ttl,
                src: self.to.src,
                dst: self.to.dst,
            };
            skb.store(ETHERNET + 4, &tail, u64::from(BPF_F_RECOMPUTE_CSUM))
        }
    }

    /// Takes one from the time to live, in memory; the next write puts it into the packet.
    #[inline(always)]
    pub(crate) fn age(&mut self) {
        if self.tuple.dst.is_v4() {
            let word = |ttl| u16::from_ne_bytes([ttl, self.tuple.protocol.0]);
            let aged = Difference::none().word16(word(self.ttl), word(self.ttl - 1));
            self.checksum_or_length = aged.apply(self.checksum_or_length);
        }
        self.ttl -= 1;
    }

    /// Writes another traffic class, `from` being the one before.
    #[inline(always)]
    pub(crate) fn store_class(&mut self, skb: Skb, from: u8, to: u8) -> Result<(), Outcome> {
        let stored = if self.tuple.dst.is_v4() {
            let word = |class| u16::from_ne_bytes([0x45, class]);
            let change = Difference::none().word16(word(from), word(to));
            self.checksum_or_length = change.apply(self.checksum_or_length);
            skb.store(ETHERNET + 1, &to, 0)
                .and_then(|()| skb.store(ETHERNET + 10, &self.checksum_or_length, 0))
        } else {
            let change = u32::from(from ^ to) << 20;
            skb.load::<u32>(ETHERNET).and_then(|word| {
                skb.store(ETHERNET, &(word ^ change.to_be()), u64::from(BPF_F_RECOMPUTE_CSUM))
            })
        };
        stored.map_err(|Failed| Outcome::DroppedRewrite)
    }

    /// Writes the time to live alone.
    #[inline(always)]
    pub(crate) fn store_age(&self, skb: Skb) -> Result<(), Outcome> {
        let stored = if self.tuple.dst.is_v4() {
            let [low, high] = self.checksum_or_length.to_ne_bytes();
            skb.store(ETHERNET + 8, &[self.ttl, self.tuple.protocol.0, low, high], 0)
        } else {
            skb.store(ETHERNET + 7, &self.ttl, u64::from(BPF_F_RECOMPUTE_CSUM))
        };
        stored.map_err(|Failed| Outcome::DroppedRewrite)
    }
}

/// See [`crc32c_change`]. Exported, which makes it a global function: the verifier looks at it by
/// itself and once, and not once for each path that leads to it.
#[unsafe(no_mangle)]
extern "C" fn sctp_change(from: u32, to: u32, following: u32) -> u32 {
    crc32c_change(from, to, following)
}

/// Offset of an echo's identifier from the start of its header.
pub(crate) const IDENTIFIER: u32 = 4;

/// The ports of an echo or its answer: its identifier is the port of the end that asks (RFC 5508, 3.1).
#[inline(always)]
pub(crate) fn echo_ports(transport: Transport, id: Be16) -> Ports {
    match transport {
        Transport::EchoReply => Ports { src: Be16(0), dst: id },
        _ => Ports { src: id, dst: Be16(0) },
    }
}

//! What the programs know of a packet. [Parsing](crate::parse) fills it in,
//! [rewriting](crate::rewrite) writes it back.

use crate::skb::{ETHERNET, Skb};
use bytemuck::{Pod, Zeroable};
use datapath_common::{Addr, Be16, Flow, Ports, Protocol, Tuple};

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

/// The first eight bytes of an IPv6 extension header (RFC 8200, 4).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Extension {
    pub(crate) next: Protocol,
    pub(crate) length: u8,
    pub(crate) fragment: u16,
    pub(crate) id: u32,
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
    pub(crate) end: u32,
    /// Identification of the datagram that a fragment belongs to.
    pub(crate) fragment_id: u32,
    /// What fits, for a packet that is too big.
    pub(crate) mtu: u32,
    /// IPv4: the header's checksum. IPv6: the payload's length.
    pub(crate) checksum_or_length: u16,
    /// IPv6: next header.
    pub(crate) next: Protocol,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// TCP flags.
    pub(crate) tcp: u8,
    /// What follows the IP header.
    pub(crate) transport: Transport,
    /// Whether more fragments follow.
    pub(crate) first_fragment: bool,
    /// Whether the packet is to be translated, or passed on.
    pub(crate) known: bool,
    /// Whether another node has passed it on as its client has sent it.
    pub(crate) passed_on: bool,
}

impl Packet {
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

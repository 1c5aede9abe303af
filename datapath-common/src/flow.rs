//! The flow table.
//!
//! A flow is two mirror entries. For packets with tuple `t` that leave as `t'`, `FLOWS` holds
//! `t → t'` and `reverse(t') → reverse(t)`. The same struct serves destination translation, source
//! translation, hairpins and replies, and each half can restore the other. Inserting the reverse
//! half with `BPF_NOEXIST` is the lock that makes a source port ours.

use crate::{Addr, Be16, Protocol};
use bytemuck::{Pod, Zeroable};

/// Addresses, ports and protocol of a packet. Key of `FLOWS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source and destination port.
    pub ports: Ports,
    /// Protocol.
    pub protocol: Protocol,
    /// Zero.
    pub pad: [u8; 3],
}

impl Tuple {
    /// The tuple of the answer to this packet.
    #[must_use]
    #[inline(always)]
    pub const fn reverse(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ports: Ports { src: self.ports.dst, dst: self.ports.src },
            protocol: self.protocol,
            pad: [0; 3],
        }
    }
}

/// The ports of a packet, as they stand at the start of its TCP, UDP or SCTP header. Of an ICMP echo
/// the identifier is the port of the end that asks, and the other one is zero.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct Ports {
    /// Source port.
    pub src: Be16,
    /// Destination port.
    pub dst: Be16,
}

/// What is known of one direction of a flow.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct FlowFlags(pub u16);

impl FlowFlags {
    /// This half carries the client's packets; the other half carries the answers.
    pub const FORWARD: Self = Self(1 << 0);
    /// The client's source address or port is replaced.
    pub const SOURCE_TRANSLATED: Self = Self(1 << 1);
    /// The client is a process of this node.
    pub const HOST_CLIENT: Self = Self(1 << 2);
    /// A packet was seen in this direction.
    pub const SEEN: Self = Self(1 << 3);
    /// TCP: this direction sent its FIN.
    pub const FIN: Self = Self(1 << 4);
    /// TCP: this direction sent an RST.
    pub const RST: Self = Self(1 << 5);
    /// TCP: this direction sent an ACK that is no SYN: its side of the handshake is done.
    pub const ACKED: Self = Self(1 << 6);

    /// The stack carries this flow's packets one way (it has changed their destination itself), so it
    /// must carry them the other way too. A single entry that maps a tuple to itself.
    pub const STACK: Self = Self(1 << 7);

    /// The backend was a pod of this node when the flow began.
    pub const TO_POD: Self = Self(1 << 8);

    /// The client's packets are passed on as they are, wrapped, to the node of the backend in
    /// [`Flow::to`], which answers the client itself. A single entry: no answer comes by here.
    pub const DSR: Self = Self(1 << 9);

    /// Flows that are a single entry.
    pub const SINGLE: Self = Self(Self::STACK.0 | Self::DSR.0);

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any bit of `other` is set.
    #[inline(always)]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Value of `FLOWS`: what a packet with the key's tuple becomes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Flow {
    /// `CLOCK_MONOTONIC` nanoseconds of the last packet in this direction, to some milliseconds.
    pub last_seen: u64,
    /// Packets in this direction.
    pub packets: u64,
    /// Bytes of those packets, as they stand in the skb.
    pub bytes: u64,
    /// The tuple that the packet leaves with.
    pub to: Tuple,
    /// The service that was dialled.
    pub service: u32,
    /// The backend that was chosen.
    pub backend: u32,
    /// Index of the device on which the client's packets arrive (or leave, for a host client).
    pub device: u32,
    /// See [`FlowFlags`].
    pub flags: FlowFlags,
    /// Zero.
    pub pad: u16,
}

impl Flow {
    /// The other half of this entry: key and value, as seen from the entry's `key`.
    #[must_use]
    #[inline(always)]
    pub const fn mirror_of(&self, key: &Tuple) -> (Tuple, Tuple) {
        (self.to.reverse(), key.reverse())
    }
}

/// Idle times after which a flow is forgotten, in seconds. Meaning and defaults are those of the
/// kernel's `nf_conntrack` sysctls, as kube-proxy sets them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Timeouts {
    /// TCP handshake not finished (`tcp_timeout_syn_sent`).
    pub tcp_opening: u32,
    /// TCP established (`tcp_timeout_established`).
    pub tcp_established: u32,
    /// TCP, one side has sent its FIN (`tcp_timeout_close_wait`).
    pub tcp_half_closed: u32,
    /// TCP, both sides have sent their FIN (`tcp_timeout_time_wait`).
    pub tcp_closed: u32,
    /// TCP, an RST was seen (`tcp_timeout_close`).
    pub tcp_reset: u32,
    /// Datagrams in one direction only (`udp_timeout`).
    pub udp_single: u32,
    /// Datagrams in both directions (`udp_timeout_stream`).
    pub udp_stream: u32,
}

impl Timeouts {
    /// The defaults of Linux and kube-proxy.
    pub const DEFAULT: Self = Self {
        tcp_opening: 120,
        tcp_established: 86_400,
        tcp_half_closed: 3_600,
        tcp_closed: 120,
        tcp_reset: 10,
        udp_single: 30,
        udp_stream: 120,
    };

    /// How long a flow of `protocol` may idle, given what both of its halves have seen. Of a single entry
    /// the one direction that is seen stands for both.
    #[inline(always)]
    pub const fn of(&self, protocol: Protocol, one: FlowFlags, other: FlowFlags) -> u32 {
        let any = one.with(other);
        let other = if one.has_any(FlowFlags::SINGLE) { one } else { other };
        let both = FlowFlags(one.0 & other.0);
        match protocol {
            Protocol::TCP if any.has(FlowFlags::RST) => self.tcp_reset,
            Protocol::TCP if both.has(FlowFlags::FIN) => self.tcp_closed,
            Protocol::TCP if any.has(FlowFlags::FIN) => self.tcp_half_closed,
            Protocol::TCP if both.has(FlowFlags::ACKED) => self.tcp_established,
            Protocol::TCP => self.tcp_opening,
            _ if both.has(FlowFlags::SEEN) => self.udp_stream,
            _ => self.udp_single,
        }
    }
}

/// Key of `FRAGMENTS`, whose value is the [`Ports`] that the first fragment carried
/// (RFC 791, 2.3; RFC 8200, 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct Fragment {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The datagram's identification, as it stands in the header (16 bits in IPv4).
    pub id: u32,
    /// Protocol.
    pub protocol: Protocol,
    /// Zero.
    pub pad: [u8; 3],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_lives_as_long_as_netfilter_says() {
        let (seen, acked, fin, rst) =
            (FlowFlags::SEEN, FlowFlags::ACKED, FlowFlags::FIN, FlowFlags::RST);
        let open = seen.with(acked);
        let none = FlowFlags::default();
        let t = Timeouts::DEFAULT;
        for (protocol, one, other, seconds) in [
            (Protocol::UDP, seen, none, 30),
            (Protocol::UDP, seen, seen, 120),
            (Protocol::SCTP, seen, seen, 120),
            (Protocol::TCP, seen, none, 120),
            (Protocol::TCP, seen, seen, 120),
            (Protocol::TCP, open, seen, 120),
            (Protocol::TCP, open, open, 86_400),
            (Protocol::TCP, open.with(fin), open, 3_600),
            (Protocol::TCP, open.with(fin), open.with(fin), 120),
            (Protocol::TCP, open, open.with(rst), 10),
            (Protocol::TCP, open.with(FlowFlags::STACK), open.with(FlowFlags::STACK), 86_400),
            (Protocol::TCP, open.with(FlowFlags::DSR), open.with(FlowFlags::DSR), 86_400),
        ] {
            assert_eq!(t.of(protocol, one, other), seconds, "{protocol:?} {one:?} {other:?}");
            assert_eq!(t.of(protocol, other, one), seconds, "{protocol:?} {other:?} {one:?}");
        }
    }

    #[test]
    fn of_a_single_entry_one_direction_stands_for_both() {
        let none = FlowFlags::default();
        let open = FlowFlags::SEEN.with(FlowFlags::ACKED).with(FlowFlags::DSR);
        let t = Timeouts::DEFAULT;
        for (protocol, one, seconds) in [
            (Protocol::TCP, open, 86_400),
            (Protocol::TCP, open.with(FlowFlags::FIN), 120),
            (Protocol::TCP, open.with(FlowFlags::RST), 10),
            (Protocol::UDP, open, 120),
        ] {
            assert_eq!(t.of(protocol, one, none), seconds, "{protocol:?} {one:?}");
        }
    }

    #[test]
    fn the_mirror_of_the_mirror_is_the_entry() {
        let key =
            Tuple { ports: Ports { src: Be16::new(1), dst: Be16::new(2) }, ..Tuple::default() };
        let to =
            Tuple { ports: Ports { src: Be16::new(3), dst: Be16::new(4) }, ..Tuple::default() };
        let flow = Flow { to, ..Flow::zeroed() };
        let (mirror_key, mirror_to) = flow.mirror_of(&key);
        let mirror = Flow { to: mirror_to, ..Flow::zeroed() };
        assert_eq!(mirror.mirror_of(&mirror_key), (key, to));
    }
}

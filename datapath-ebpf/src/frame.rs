//! A frame in XDP: there is no packet buffer yet, and headers are read and written where they stand.
//!
//! Only frames with headers of fixed length are read. Every access is at an offset that is known here,
//! and is checked against the frame's end anew: the verifier forgets what it knew of pointers into a frame
//! over calls.

use crate::{
    fib::Hop,
    packet::{Ipv4, Ipv6, Packet, Tcp, Transport},
    skb::ETHERNET,
};
use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use bytemuck::{Pod, Zeroable};
use datapath_common::{
    Addr, Outcome, Ports, Protocol,
    checksum::{Difference, fold},
};

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// Offsets of the transport header behind an IPv4 header without options, and behind an IPv6 header.
const L4_V4: usize = ETHERNET as usize + 20;
const L4_V6: usize = ETHERNET as usize + 40;

/// Offsets of the checksum in a TCP and in a UDP header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// An Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ethernet {
    /// Destination and source.
    macs: [[u16; 3]; 2],
    protocol: u16,
}

/// The frame of the running program.
#[derive(Clone, Copy)]
pub(crate) struct Frame(*mut xdp_md);

impl Frame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self(context.ctx)
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) const fn raw(self) -> *mut xdp_md {
        self.0
    }

    /// Length in bytes, all of it in one piece: the program does not ask for frames in several.
    #[inline(always)]
    pub(crate) fn length(self) -> u32 {
        let (start, end) = self.bounds();
        (end - start) as u32
    }

    /// Index of the device that it came by.
    #[inline(always)]
    pub(crate) fn device(self) -> u32 {
        // SAFETY: the kernel passes a valid context to the program.
        unsafe { (&raw const (*self.0).ingress_ifindex).read() }
    }

    /// Reads the headers, if they are plain: TCP or UDP, neither options nor extension headers, no
    /// fragment, no part of it missing. Anything else is for the programs that see packets.
    #[inline(always)]
    pub(crate) fn parse(self, packet: &mut Packet) -> Option<()> {
        packet.tuple.pad = [0; 3];
        packet.tcp = 0;
        packet.known = false;
        packet.passed_on = false;
        packet.transport = Transport::Whole;
        match self.read::<Ethernet>(0)?.protocol {
            ETHERTYPE_IPV4 => self.parse_ipv4(packet)?,
            ETHERTYPE_IPV6 => self.parse_ipv6(packet)?,
            _ => return None,
        }
        packet.to = packet.tuple;
        Some(())
    }

    #[inline(always)]
    fn parse_ipv4(self, packet: &mut Packet) -> Option<()> {
        /// Version 4, five words.
        const PLAIN: u8 = 0x45;
        /// "More fragments", and the offset of one.
        const FRAGMENT: u16 = 0x3fff_u16.to_be();
        let ip: Ipv4 = self.read(ETHERNET as usize)?;
        let length = u32::from(u16::from_be(ip.length));
        if ip.version_ihl != PLAIN
            || ip.fragment & FRAGMENT != 0
            || self.length() < ETHERNET + length
        {
            return None;
        }
        packet.tuple.src = Addr::from_v4_word(ip.src);
        packet.tuple.dst = Addr::from_v4_word(ip.dst);
        packet.tuple.protocol = ip.protocol;
        packet.ttl = ip.ttl;
        packet.l4 = L4_V4 as u32;
        let pseudo = u64::from(ip.src) + u64::from(ip.dst);
        self.parse_transport::<L4_V4>(packet, pseudo, length.wrapping_sub(20))
    }

    #[inline(always)]
    fn parse_ipv6(self, packet: &mut Packet) -> Option<()> {
        let ip: Ipv6 = self.read(ETHERNET as usize)?;
        let length = u32::from(u16::from_be(ip.length));
        if u32::from_be(ip.version_flow) >> 28 != 6
            || ip.src.is_v4()
            || ip.dst.is_v4()
            || self.length() < ETHERNET + 40 + length
        {
            return None;
        }
        packet.tuple.src = ip.src;
        packet.tuple.dst = ip.dst;
        packet.tuple.protocol = ip.next;
        packet.ttl = ip.hop_limit;
        packet.l4 = L4_V6 as u32;
        let pseudo = words(&ip.src) + words(&ip.dst);
        self.parse_transport::<L4_V6>(packet, pseudo, length)
    }

    /// `pseudo` is the sum of the addresses, `length` that of the transport header and what follows.
    #[inline(always)]
    fn parse_transport<const L4: usize>(
        self,
        packet: &mut Packet,
        pseudo: u64,
        length: u32,
    ) -> Option<()> {
        let (least, checksum) = match packet.tuple.protocol {
            Protocol::TCP => {
                let tcp: Tcp = self.read(L4)?;
                packet.tuple.ports = tcp.ports;
                packet.tcp = tcp.flags;
                (20, self.read::<[u16; 2]>(L4 + TCP_CHECKSUM)?[0])
            }
            Protocol::UDP => {
                packet.tuple.ports = self.read(L4)?;
                (8, self.read::<u16>(L4 + UDP_CHECKSUM)?)
            }
            _ => return None,
        };
        // A packet that has never been on a wire may have no checksum yet, only its first part, which
        // the kernel knows to complete. Packets that look like it by chance are seldom.
        let pseudo = pseudo
            + u64::from(u16::to_be(packet.tuple.protocol.0.into()))
            + u64::from((length as u16).to_be());
        if length < least || checksum == !fold(pseudo) {
            return None;
        }
        Some(())
    }

    /// Writes what a packet leaves with, and where to: [`Packet::to`] in place of its tuple, one less to
    /// live. All or nothing.
    #[inline(always)]
    pub(crate) fn rewrite(self, packet: &Packet, hop: &Hop) -> Result<(), Outcome> {
        let written = match (packet.tuple.dst.is_v4(), packet.tuple.protocol) {
            (true, Protocol::TCP) => self.rewrite_ipv4::<{ L4_V4 + TCP_CHECKSUM }>(packet, hop),
            (true, _) => self.rewrite_ipv4::<{ L4_V4 + UDP_CHECKSUM }>(packet, hop),
            (false, Protocol::TCP) => self.rewrite_ipv6::<{ L4_V6 + TCP_CHECKSUM }>(packet, hop),
            (false, _) => self.rewrite_ipv6::<{ L4_V6 + UDP_CHECKSUM }>(packet, hop),
        };
        written.ok_or(Outcome::DroppedRewrite)
    }

    #[inline(always)]
    fn rewrite_ipv4<const CHECKSUM: usize>(self, packet: &Packet, hop: &Hop) -> Option<()> {
        let mut ip: Ipv4 = self.read(ETHERNET as usize)?;
        let addresses = addresses(packet);
        let word = |ttl| u16::from_ne_bytes([ttl, ip.protocol.0]);
        ip.checksum = addresses.word16(word(ip.ttl), word(ip.ttl - 1)).apply(ip.checksum);
        ip.ttl -= 1;
        ip.src = packet.to.src.v4_word();
        ip.dst = packet.to.dst.v4_word();
        self.rewrite_transport::<L4_V4, CHECKSUM>(packet, addresses)?;
        self.write(ETHERNET as usize, ip)?;
        self.write(0, Ethernet { macs: hop.macs, protocol: ETHERTYPE_IPV4 })
    }

    #[inline(always)]
    fn rewrite_ipv6<const CHECKSUM: usize>(self, packet: &Packet, hop: &Hop) -> Option<()> {
        let mut ip: Ipv6 = self.read(ETHERNET as usize)?;
        ip.hop_limit -= 1;
        ip.src = packet.to.src;
        ip.dst = packet.to.dst;
        self.rewrite_transport::<L4_V6, CHECKSUM>(packet, addresses(packet))?;
        self.write(ETHERNET as usize, ip)?;
        self.write(0, Ethernet { macs: hop.macs, protocol: ETHERTYPE_IPV6 })
    }

    #[inline(always)]
    fn rewrite_transport<const L4: usize, const CHECKSUM: usize>(
        self,
        packet: &Packet,
        addresses: Difference,
    ) -> Option<()> {
        let old: u16 = self.read(CHECKSUM)?;
        let udp = CHECKSUM == L4 + UDP_CHECKSUM;
        if !udp || old != 0 {
            let (from, to) = (packet.tuple.ports, packet.to.ports);
            let change = addresses.word16(from.src.0, to.src.0).word16(from.dst.0, to.dst.0);
            let new = change.apply(old);
            // Zero stands for no checksum in UDP (RFC 768).
            self.write(CHECKSUM, if udp && new == 0 { 0xffff } else { new })?;
        }
        self.write::<Ports>(L4, packet.to.ports)
    }

    #[inline(always)]
    fn read<T: Pod>(self, offset: usize) -> Option<T> {
        let place = self.at::<T>(offset)?;
        // SAFETY: within the frame, and every bit pattern is a `T`. Loads need no alignment where XDP
        // programs run, or the driver aligns what follows the Ethernet header.
        Some(unsafe { place.read() })
    }

    #[inline(always)]
    fn write<T: Pod>(self, offset: usize, value: T) -> Option<()> {
        let place = self.at::<T>(offset)?;
        // SAFETY: as in `read`; the frame is the program's own.
        unsafe { place.write(value) }
        Some(())
    }

    /// Where a `T` stands, if that is within the frame.
    #[inline(always)]
    fn at<T>(self, offset: usize) -> Option<*mut T> {
        let (start, end) = self.bounds();
        (start + offset + size_of::<T>() <= end).then_some((start + offset) as *mut T)
    }

    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: the kernel passes a valid context to the program.
        unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) }
    }
}

#[inline(always)]
fn addresses(packet: &Packet) -> Difference {
    Difference::none().addr(packet.tuple.src, packet.to.src).addr(packet.tuple.dst, packet.to.dst)
}

/// The sum of an address's 32-bit words.
#[inline(always)]
fn words(addr: &Addr) -> u64 {
    addr.0.iter().map(|word| u64::from(*word)).sum()
}

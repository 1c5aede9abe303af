//! Reading a packet's headers.

use crate::{
    maps::FRAGMENTS,
    packet::{Extension, IDENTIFIER, Ipv4, Ipv6, Packet, Tcp, Transport, echo_ports},
    skb::{ETHERNET, Failed, Skb},
};
use datapath_common::{Addr, Fragment, Ports, Protocol};

const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;

impl Packet {
    /// Reads the headers of `skb`. `None` for what is not IP, or not whole: the kernel's matter.
    #[inline(always)]
    pub(crate) fn parse(&mut self, skb: Skb) -> Option<()> {
        self.tuple.ports = Ports::default();
        self.tuple.pad = [0; 3];
        self.tcp = 0;
        self.first_fragment = false;
        self.known = false;
        self.passed_on = false;
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
}

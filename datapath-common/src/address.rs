//! Addresses, ports and protocols as they stand in packets and map keys.

use bytemuck::{Pod, Zeroable};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address in its IPv4-mapped form `::ffff:a.b.c.d`.
///
/// The four words hold the bytes in network order; as words they are loaded and compared with four
/// instructions, where an array of bytes would take sixteen.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// `::`, the wildcard of the IPv6 family.
    pub const UNSPECIFIED_V6: Self = Self([0; 4]);
    /// `::ffff:0.0.0.0`, the wildcard of the IPv4 family.
    pub const UNSPECIFIED_V4: Self = Self::from_v4_word(0);

    /// An IPv4 address from the word that stands in the packet (network byte order).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), word])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be()
    }

    /// The last word: all of an IPv4 address, in network byte order.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// The wildcard address of this address's family.
    #[must_use]
    #[inline(always)]
    pub const fn wildcard(&self) -> Self {
        if self.is_v4() { Self::UNSPECIFIED_V4 } else { Self::UNSPECIFIED_V6 }
    }

    /// Whether this is a loopback address: one of 127.0.0.0/8, or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
        }
    }

    /// Whether no single host can have this address: multicast, the broadcast address, or "this
    /// network" (RFC 1122, 3.2.1.3; RFC 4291, 2.7).
    #[inline(always)]
    pub const fn is_nobodys(&self) -> bool {
        if self.is_v4() {
            let word = u32::from_be(self.0[3]);
            word >> 28 == 0xe || word >> 24 == 0 || word == u32::MAX
        } else {
            u32::from_be(self.0[0]) >> 24 == 0xff || self.is_unspecified()
        }
    }

    /// Whether this is the wildcard of its family.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[3] == 0 && self.0[0] == 0 && self.0[1] == 0 && (self.0[2] == 0 || self.is_v4())
    }

    /// The address as the standard library knows it; IPv4 stays IPv4.
    pub fn ip(&self) -> IpAddr {
        let v6 = Ipv6Addr::from(bytemuck::cast::<[u32; 4], [u8; 16]>(self.0));
        match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(v6),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(v4: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(v4.octets()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(v6: Ipv6Addr) -> Self {
        Self(bytemuck::cast(v6.octets()))
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.ip(), f)
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.ip(), f)
    }
}

/// A 16-bit number in network byte order: a port as it stands in the packet.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
pub struct Be16(pub u16);

impl Be16 {
    /// From host byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn host(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl core::fmt::Debug for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.host(), f)
    }
}

/// IP protocol numbers that the programs tell apart (IANA "Protocol Numbers").
///
/// Constants of a plain `u8` and not an enum: any byte may arrive in a packet or a map.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
pub struct Protocol(pub u8);

impl Protocol {
    /// No protocol: the frontend entry that stands for every unserved port of an address.
    pub const ANY: Self = Self(0);
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: Self = Self(4);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// IPv6 in IP (RFC 4213, RFC 2473).
    pub const IPV6: Self = Self(41);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// The protocol's usual name, or `None` for one that a frontend cannot have.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::TCP => Some("TCP"),
            Self::UDP => Some("UDP"),
            Self::SCTP => Some("SCTP"),
            _ => None,
        }
    }
}

impl core::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None if *self == Self::ICMP => f.write_str("ICMP"),
            None if *self == Self::ICMPV6 => f.write_str("ICMPv6"),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Key of a longest-prefix map over addresses (`BPF_MAP_TYPE_LPM_TRIE`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct LpmKey {
    /// Number of leading bits that count: 96 more than the IPv4 prefix for an IPv4 range.
    pub prefix_len: u32,
    /// The range's first address.
    pub addr: Addr,
}

impl LpmKey {
    /// The key of `addr/prefix_len`, with the prefix length as people write it for its family.
    pub const fn new(addr: Addr, prefix_len: u8) -> Self {
        let mapped = if addr.is_v4() { 96 } else { 0 };
        Self { prefix_len: mapped + prefix_len as u32, addr }
    }

    /// The key that looks up one address.
    #[inline(always)]
    pub const fn host(addr: Addr) -> Self {
        Self { prefix_len: 128, addr }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_family() {
        for text in ["10.200.1.10", "127.8.0.1", "0.0.0.0", "fd00:10:10::5", "::", "::1"] {
            let ip: IpAddr = text.parse().expect("an address");
            let addr = Addr::from(ip);
            assert_eq!(addr.ip(), ip);
            assert_eq!(addr.is_v4(), ip.is_ipv4());
            assert_eq!(addr.is_unspecified(), ip.is_unspecified());
            assert_eq!(addr.is_loopback(), ip.is_loopback());
        }
    }

    #[test]
    fn some_addresses_are_nobodys() {
        for (text, nobodys) in [
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("224.0.0.1", true),
            ("239.255.255.255", true),
            ("255.255.255.255", true),
            ("::", true),
            ("ff02::1", true),
            ("10.200.1.10", false),
            ("223.255.255.255", false),
            ("fd00::1", false),
            ("::1", false),
        ] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(Addr::from(ip).is_nobodys(), nobodys, "{text}");
        }
    }

    #[test]
    fn ipv4_prefixes_count_the_mapped_bits() {
        let key = LpmKey::new(Ipv4Addr::new(10, 10, 3, 0).into(), 24);
        assert_eq!(key.prefix_len, 120);
        let key = LpmKey::new(Ipv6Addr::LOCALHOST.into(), 64);
        assert_eq!(key.prefix_len, 64);
    }
}

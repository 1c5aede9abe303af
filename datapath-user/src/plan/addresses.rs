//! Ranges of addresses as keys of longest-prefix maps.

use datapath_common::{Addr, LpmKey};
use ipnet::{IpNet, Ipv6Net};
use std::net::Ipv6Addr;

/// The keys that together cover `range`.
///
/// Both families share one map in which IPv4 addresses are IPv4-mapped ones. An IPv6 range wide
/// enough to contain those (`::/0` to `::ffff:0:0/96`) is cut into the ranges beside them, or it
/// would cover all of IPv4.
pub fn prefixes(range: IpNet) -> Vec<LpmKey> {
    let IpNet::V6(v6) = range.trunc() else {
        return vec![LpmKey::new(range.trunc().network().into(), range.prefix_len())];
    };
    let mapped = u128::from(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0));
    if v6.prefix_len() > 96 || !v6.contains(&Ipv6Addr::from(mapped)) {
        return vec![LpmKey::new(Addr::from(v6.network()), v6.prefix_len())];
    }
    (v6.prefix_len() + 1..=96)
        .filter_map(|len| {
            let sibling = Ipv6Addr::from(mapped ^ (1 << (128 - u32::from(len))));
            Ipv6Net::new(sibling, len).ok()
        })
        .map(|net| LpmKey::new(Addr::from(net.trunc().network()), net.prefix_len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn covers(keys: &[LpmKey], address: &str) -> bool {
        let address: IpAddr = address.parse().expect("an address");
        let bits = |addr: Addr| u128::from_be_bytes(bytemuck::cast(addr.0));
        keys.iter().any(|key| {
            let shift = 128 - key.prefix_len;
            bits(key.addr).checked_shr(shift) == bits(address.into()).checked_shr(shift)
        })
    }

    #[test]
    fn everything_of_ipv6_is_nothing_of_ipv4() {
        let keys = prefixes("::/0".parse().expect("a range"));
        assert_eq!(keys.len(), 96);
        assert!(
            covers(&keys, "fd00::1") && covers(&keys, "::1") && covers(&keys, "::fffe:1.2.3.4")
        );
        assert!(!covers(&keys, "1.2.3.4") && !covers(&keys, "255.255.255.255"));
    }

    #[test]
    fn ordinary_ranges_are_one_key() {
        for (range, len) in [("10.1.2.3/8", 104), ("fd00:10::5/32", 32), ("0.0.0.0/0", 96)] {
            let keys = prefixes(range.parse().expect("a range"));
            assert_eq!(keys.len(), 1);
            assert_eq!(keys[0].prefix_len, len);
        }
        assert!(covers(&prefixes("10.1.2.3/8".parse().expect("a range")), "10.9.9.9"));
    }
}

//! On which of the node's addresses node ports are served.

use crate::model::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// kube-proxy's `nodePortAddresses` (KEP-3866, KEP-6032): words and ranges, in any combination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePortAddresses {
    /// The word `primary`: the node's own addresses, one per family.
    primary: bool,
    /// The word `localhost`.
    localhost: bool,
    /// Ranges; the word `all` stands for those of everything.
    ranges: Vec<IpNet>,
    /// Never on loopback addresses, whatever the rest says.
    without_localhost: bool,
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self { primary: true, localhost: false, ranges: Vec::new(), without_localhost: false }
    }
}

impl NodePortAddresses {
    /// All of the node's addresses.
    pub fn all() -> Self {
        Self { primary: false, ranges: everything().to_vec(), ..Self::default() }
    }

    /// The same without loopback addresses.
    #[must_use]
    pub fn without_localhost(self) -> Self {
        Self { without_localhost: true, ..self }
    }

    /// Whether node ports are served on `address`, which is no loopback one; `primary` are the
    /// node's own addresses.
    pub fn include(&self, address: IpAddr, primary: &[IpAddr]) -> bool {
        self.primary && primary.contains(&address)
            || self.ranges.iter().any(|range| range.contains(&address))
            || self.leave_out(Family::of(address))
    }

    /// Whether a family is served on all of its addresses, also on those that are yet to come.
    pub fn is_all(&self, family: Family) -> bool {
        let mut ranges = self.ranges.iter().filter(|range| Family::of_net(**range) == family);
        ranges.any(|range| range.prefix_len() == 0) || self.leave_out(family)
    }

    /// Whether the node's own processes reach node ports on the family's loopback addresses: unless
    /// that is switched off, or ranges are given and none of them has to do with such addresses.
    pub fn include_localhost(&self, family: Family) -> bool {
        let loopback = match family {
            Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        };
        let meets = |range: &IpNet| range.contains(&loopback) || loopback.contains(range);
        let named = self.localhost || self.ranges.iter().any(meets);
        !self.without_localhost && (named || self.ranges.is_empty() || self.leave_out(family))
    }

    /// Whether localhost is asked for by its name or address.
    pub fn name_localhost(&self) -> bool {
        let is_loopback = |range: &IpNet| range.addr().is_loopback();
        !self.without_localhost && (self.localhost || self.ranges.iter().any(is_loopback))
    }

    /// Whether ranges are given, but nothing of this family: as kube-proxy, we then serve all of it.
    fn leave_out(&self, family: Family) -> bool {
        let named = self.ranges.iter().any(|range| Family::of_net(*range) == family);
        !self.ranges.is_empty() && !named && !self.primary
    }
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut addresses = Self { primary: false, ..Self::default() };
        for entry in text.split(',').map(str::trim) {
            match entry {
                "primary" => addresses.primary = true,
                "localhost" => addresses.localhost = true,
                "all" => addresses.ranges.extend(everything()),
                range => addresses.ranges.push(range.parse().map_err(|_not_a_range| {
                    format!(
                        "{range:?} is neither a range of addresses nor primary, all or localhost"
                    )
                })?),
            }
        }
        Ok(addresses)
    }
}

fn everything() -> [IpNet; 2] {
    [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_ranges_combine_as_in_kube_proxy() {
        let primary: [IpAddr; 2] = [[172, 18, 0, 3].into(), "fc00::3".parse().expect("an address")];
        // Which of the primary and of two other addresses, and whether localhost: IPv4, then IPv6.
        for (text, v4, v6) in [
            ("primary", [true, false, true], [true, false, true]),
            ("all", [true, true, true], [true, true, true]),
            ("0.0.0.0/0", [true, true, true], [true, true, true]),
            ("localhost", [false, false, true], [false, false, true]),
            ("primary,localhost", [true, false, true], [true, false, true]),
            ("192.0.2.0/24", [false, true, false], [true, true, true]),
            ("192.0.2.0/24,2001:db8::/32", [false, true, false], [false, true, false]),
            ("primary,192.0.2.0/24", [true, true, false], [true, false, false]),
            ("primary, 127.0.0.0/8", [true, false, true], [true, false, false]),
            ("172.18.0.0/16,127.0.0.1/32,::1/128", [true, false, true], [false, false, true]),
        ] {
            let addresses: NodePortAddresses = text.parse().expect(text);
            let others: [IpAddr; 2] =
                [[192, 0, 2, 1].into(), "2001:db8::1".parse().expect("an address")];
            for (index, expected) in [v4, v6].into_iter().enumerate() {
                let found = [
                    addresses.include(primary[index], &primary),
                    addresses.include(others[index], &primary),
                    addresses.include_localhost(Family::ALL[index]),
                ];
                assert_eq!(found, expected, "{text}, {:?}", Family::ALL[index]);
                let without = addresses.clone().without_localhost();
                assert!(!without.include_localhost(Family::ALL[index]), "{text}");
            }
        }
    }

    #[test]
    fn only_who_names_localhost_insists_on_it() {
        for (text, named) in [
            ("primary", false),
            ("0.0.0.0/0", false),
            ("primary,localhost", true),
            ("127.0.0.0/8", true),
            ("::1/128", true),
        ] {
            let addresses: NodePortAddresses = text.parse().expect(text);
            assert_eq!(addresses.name_localhost(), named, "{text}");
        }
        for text in ["", "eth0", "primary,", "10.0.0.1/33"] {
            assert!(text.parse::<NodePortAddresses>().is_err(), "{text}");
        }
    }
}

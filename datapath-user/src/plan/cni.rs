//! What a container runtime is told to connect this node's pods with.

use crate::model::Family;
use ipnet::IpNet;
use serde_json::json;
use std::path::Path;

/// The network of this node's pods, where it is ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodNetwork {
    /// Ranges that pods get their addresses from, the first family first.
    pub ranges: Vec<IpNet>,
    /// Largest IP packet of their interfaces in bytes.
    pub mtu: u16,
}

impl PodNetwork {
    /// None without a range that has room for pods: host-local keeps the first and the last address of
    /// each, and the second for the gateway.
    pub(super) fn new(ranges: &[IpNet], mtu: u16) -> Option<Self> {
        let has_room = |range: &IpNet| range.max_prefix_len() - range.prefix_len() >= 2;
        let ranges: Vec<_> =
            ranges.iter().filter(|range| has_room(range)).map(IpNet::trunc).collect();
        (!ranges.is_empty()).then_some(Self { ranges, mtu })
    }

    /// The network configuration list of the CNI specification, version 0.3.1: the plugins ptp and
    /// host-local, which keeps the addresses that it has given out in `data_dir`. A pod gets an
    /// address of each family. The portmap plugin is not needed: host ports are ours too.
    pub fn conflist(&self, data_dir: &Path) -> String {
        let mut families: Vec<Family> = self.ranges.iter().copied().map(Family::of_net).collect();
        families.sort_by_key(|family| {
            self.ranges.iter().position(|range| Family::of_net(*range) == *family)
        });
        families.dedup();
        let of_family = |family: &Family| -> Vec<_> {
            let ranges = self.ranges.iter().filter(|range| Family::of_net(**range) == *family);
            ranges.map(|range| json!({"subnet": range})).collect()
        };
        let ranges: Vec<_> = families.iter().map(of_family).collect();
        let default = |family: &Family| json!({"dst": format!("{}/0", family.wildcard())});
        let routes: Vec<_> = families.iter().map(default).collect();
        let list = json!({
            "cniVersion": "0.3.1",
            "name": "datapath",
            "plugins": [{
                "type": "ptp",
                "ipMasq": false,
                "mtu": self.mtu,
                "ipam": {
                    "type": "host-local",
                    "dataDir": data_dir,
                    "ranges": ranges,
                    "routes": routes,
                },
            }],
        });
        format!("{list:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn network(ranges: &[&str]) -> Option<PodNetwork> {
        let ranges: Vec<_> = ranges.iter().map(|text| text.parse().expect("a range")).collect();
        PodNetwork::new(&ranges, 1480)
    }

    #[test]
    fn pods_get_an_address_of_each_family() {
        for (blocks, ranges, routes) in [
            (
                vec!["10.1.0.0/24"],
                json!([[{"subnet": "10.1.0.0/24"}]]),
                json!([{"dst": "0.0.0.0/0"}]),
            ),
            (
                vec!["10.1.0.0/24", "fd00:1::/64"],
                json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]),
                json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]),
            ),
            // The first family stays first; further blocks of one are one choice; one that holds no
            // pods beside gateway and network is nobody's choice.
            (
                vec!["fd00:1::/64", "10.1.0.0/24", "fd00:2::/64", "10.9.9.9/32"],
                json!([
                    [{"subnet": "fd00:1::/64"}, {"subnet": "fd00:2::/64"}],
                    [{"subnet": "10.1.0.0/24"}],
                ]),
                json!([{"dst": "::/0"}, {"dst": "0.0.0.0/0"}]),
            ),
        ] {
            let text = network(&blocks).expect("a network").conflist(Path::new("/run/state"));
            let list: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(list["cniVersion"], "0.3.1");
            let plugin = &list["plugins"][0];
            assert_eq!((&plugin["type"], &plugin["mtu"]), (&json!("ptp"), &json!(1480)));
            assert_eq!(plugin["ipMasq"], false);
            assert_eq!(plugin["ipam"]["dataDir"], "/run/state");
            assert_eq!(plugin["ipam"]["ranges"], ranges, "{blocks:?}");
            assert_eq!(plugin["ipam"]["routes"], routes, "{blocks:?}");
        }
    }

    #[test]
    fn without_room_for_pods_there_is_no_network() {
        assert_eq!(network(&[]), None);
        assert_eq!(network(&["10.9.9.9/32", "fd00::/127"]), None);
    }
}

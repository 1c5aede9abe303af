//! Where pods keep their own address, though what they send elsewhere leaves with their node's.

use super::{LocalDetector, Settings, prefixes};
use crate::model::Model;
use datapath_common::LpmKey;
use ipnet::IpNet;
use std::collections::HashSet;

/// `NON_MASQUERADE`: pods and nodes, whatever the operator says, and what he says. (The ranges of
/// Services and this node's own addresses are in other maps.) Nothing where nothing is masqueraded.
///
/// Of a node's external addresses only one that stands for an internal one counts: what comes to the
/// others may have to pass a translator of the provider's, which knows nodes and no pods.
pub(super) fn non_masquerade(settings: &Settings, model: &Model) -> HashSet<LpmKey> {
    if !settings.masquerades() {
        return HashSet::new();
    }
    let nodes = model
        .nodes()
        .flat_map(|node| node.addresses().chain(node.further_addresses.iter().copied()))
        .map(IpNet::from);
    let pods = model.nodes().flat_map(|node| &node.pod_cidrs).copied();
    let cluster = match &settings.local {
        LocalDetector::Ranges(ranges) => ranges.as_slice(),
        _ => &[],
    };
    let said = cluster.iter().chain(&settings.non_masquerade_cidrs).copied();
    nodes.chain(pods).chain(said).flat_map(prefixes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Event, Node},
        plan::MasqueradeOutside,
    };
    use std::collections::BTreeSet;

    #[test]
    fn pods_and_nodes_are_never_masqueraded() {
        let mut model = Model::default();
        let mut node = Node::new("n2");
        node.v4 = Some([172, 18, 0, 5].into());
        node.further_addresses = [[172, 19, 0, 5].into()].into();
        node.pod_cidrs =
            ["10.10.1.0/24", "fd00:10:10:1::/64"].map(|text| text.parse().expect("one")).into();
        model.apply(Event::Node(node));
        for (outside, sole, masquerades) in [
            (MasqueradeOutside::Auto, false, false),
            (MasqueradeOutside::Auto, true, true),
            (MasqueradeOutside::On, false, true),
            (MasqueradeOutside::Off, true, false),
        ] {
            let mut settings = Settings::new("n1");
            settings.masquerade_outside = outside;
            settings.sole_network = sole;
            settings.local = LocalDetector::Ranges(vec!["10.0.0.0/8".parse().expect("a range")]);
            settings.non_masquerade_cidrs = vec!["192.0.2.7/24".parse().expect("a range")];
            let keys = non_masquerade(&settings, &model);
            let found: BTreeSet<_> =
                keys.iter().map(|key| format!("{}/{}", key.addr, key.prefix_len)).collect();
            let expected = if masquerades {
                // IPv4 lengths count the 96 bits of the mapped form.
                vec![
                    "10.0.0.0/104",
                    "10.10.1.0/120",
                    "172.18.0.5/128",
                    "172.19.0.5/128",
                    "192.0.2.0/120",
                    "fd00:10:10:1::/64",
                ]
            } else {
                vec![]
            };
            assert_eq!(found, expected.into_iter().map(str::to_owned).collect(), "{outside:?}");
        }
    }
}

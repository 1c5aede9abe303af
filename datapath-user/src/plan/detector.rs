//! Which clients of this node are its pods: for them traffic to a Service keeps its source address,
//! and policies do not count (kube-proxy's local detector).

use super::{Network, Settings};
use crate::model::{Family, Model};
use ipnet::IpNet;
use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

/// How pods of this node are told from other clients.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LocalDetector {
    /// By their addresses: they are in a podCIDR of some Node, or known to be a pod's.
    #[default]
    AllNodes,
    /// By their addresses: they are in these ranges. Without any, nobody counts as a pod.
    Ranges(Vec<IpNet>),
    /// By their addresses: they are in a podCIDR of this Node.
    OwnNode,
    /// By the bridge of this name that they are connected to.
    Bridge(String),
    /// By the node's end of their interface, whose name begins with this.
    Prefix(String),
}

/// What a detector finds in this node's cluster and network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Detected {
    /// Ranges of addresses that count.
    pub(super) ranges: Vec<IpNet>,
    /// Devices whose clients count, if devices decide.
    pub(super) devices: Option<HashSet<u32>>,
}

impl LocalDetector {
    pub(super) fn detect(&self, settings: &Settings, model: &Model, network: &Network) -> Detected {
        let ranges = |ranges| Detected { ranges, devices: None };
        let devices = |counts: &dyn Fn(&str) -> bool, bridge: Option<&str>| {
            let found = network.pod_devices.iter().filter(|device| {
                counts(&device.name) || bridge.is_some() && device.bridge.as_deref() == bridge
            });
            let devices = Some(found.map(|device| device.device).collect());
            Detected { ranges: Vec::new(), devices }
        };
        match self {
            Self::AllNodes => {
                let mut all: Vec<IpNet> =
                    model.nodes().flat_map(|node| &node.pod_cidrs).copied().collect();
                // A network plugin may give its pods other addresses than the Nodes say.
                let known = Detected { ranges: all.clone(), devices: None };
                let strays = network.pods.keys().filter(|pod| {
                    known.families().contains(&Family::of(**pod)) && !known.has_address(**pod)
                });
                all.extend(strays.map(|pod| IpNet::from(*pod)));
                ranges(all)
            }
            Self::Ranges(all) => ranges(all.clone()),
            Self::OwnNode => {
                let own = model.node(&settings.node);
                ranges(own.into_iter().flat_map(|node| &node.pod_cidrs).copied().collect())
            }
            Self::Bridge(bridge) => devices(&|name| name == bridge, Some(bridge)),
            Self::Prefix(prefix) => devices(&|name| name.starts_with(prefix), None),
        }
    }
}

impl Detected {
    /// Families of which it is known which clients are pods.
    pub(super) fn families(&self) -> BTreeSet<Family> {
        if self.devices.is_some() {
            return Family::ALL.into();
        }
        self.ranges.iter().map(|range| Family::of_net(*range)).collect()
    }

    /// Families of which all pods of this node count: there is nothing to be found out about one.
    pub(super) fn complete(&self, network: &Network) -> BTreeSet<Family> {
        let mut families = self.families();
        families.retain(|family| {
            let mut pods = network.pods.iter().filter(|(ip, _)| Family::of(**ip) == *family);
            pods.all(|(ip, pod)| match &self.devices {
                Some(devices) => devices.contains(&pod.device),
                None => self.has_address(*ip),
            })
        });
        families
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Event, Node},
        plan::{PodAddress, PodDevice},
    };

    /// Two pods of this node, the second with an address that no Node speaks of.
    fn network() -> Network {
        let pod = |device| PodAddress { device, mac: [0; 6], gateway: None };
        let device = |device, name: &str, bridge: Option<&str>| PodDevice {
            device,
            name: name.to_owned(),
            bridge: bridge.map(String::from),
        };
        Network {
            pods: [([10, 10, 1, 2].into(), pod(7)), ([192, 168, 5, 5].into(), pod(8))].into(),
            pod_devices: vec![device(7, "veth7", Some("cbr0")), device(8, "cali8", None)],
            ..Network::default()
        }
    }

    fn model() -> Model {
        let mut model = Model::default();
        for number in 1..=2 {
            let mut node = Node::new(&format!("n{number}"));
            node.pod_cidrs = [format!("10.10.{number}.0/24").parse().expect("a range")].into();
            model.apply(Event::Node(node));
        }
        model
    }

    #[test]
    fn each_mode_finds_its_own() {
        let range = |text: &str| text.parse::<IpNet>().expect(text);
        let cidrs = vec![range("10.10.0.0/16"), range("fd00::/48")];
        let (v4, both) = (vec![Family::V4], Family::ALL.to_vec());
        for (detector, ranges, devices, families, complete) in [
            (
                LocalDetector::AllNodes,
                vec!["10.10.1.0/24", "10.10.2.0/24", "192.168.5.5/32"],
                None,
                &v4,
                v4.clone(),
            ),
            (
                LocalDetector::Ranges(cidrs),
                vec!["10.10.0.0/16", "fd00::/48"],
                None,
                &both,
                vec![Family::V6],
            ),
            (LocalDetector::Ranges(Vec::new()), vec![], None, &vec![], vec![]),
            (LocalDetector::OwnNode, vec!["10.10.1.0/24"], None, &v4, vec![]),
            (
                LocalDetector::Bridge("cbr0".into()),
                vec![],
                Some([7].into()),
                &both,
                vec![Family::V6],
            ),
            (
                LocalDetector::Prefix("cali".into()),
                vec![],
                Some([8].into()),
                &both,
                vec![Family::V6],
            ),
            (LocalDetector::Prefix("eth".into()), vec![], Some([].into()), &both, vec![Family::V6]),
        ] {
            let (network, settings) = (network(), Settings::new("n1"));
            let found = detector.detect(&settings, &model(), &network);
            let ranges = ranges.into_iter().map(range).collect();
            assert_eq!(found, Detected { ranges, devices }, "{detector:?}");
            assert_eq!(found.families().into_iter().collect::<Vec<_>>(), *families, "{detector:?}");
            let found: Vec<_> = found.complete(&network).into_iter().collect();
            assert_eq!(found, complete, "{detector:?}");
        }
    }
}

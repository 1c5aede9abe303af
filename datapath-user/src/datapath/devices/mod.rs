//! The node's network as the kernel tells it: devices, addresses, routes, neighbours.

mod state;
mod watch;

pub(super) use state::device;
pub use watch::watch;

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// A network device of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; zeros if it has none.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether it is one end of a pair (veth, netkit).
    pub pair: bool,
    /// Whether its other end is in another network namespace, as a pod's interface is.
    pub peer_elsewhere: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Index of the bridge, or other device, that it is a port of.
    pub bridge: Option<u32>,
    /// Whether it is up.
    pub up: bool,
}

/// A pod of this node, as the node's own routes show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Index of the node's end of its interface.
    pub device: u32,
    /// Address on that device, of the pod's family: the pod's gateway on a ptp interface.
    pub gateway: Option<IpAddr>,
    /// The pod's MAC address; zeros if not known.
    pub mac: [u8; 6],
}

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Next hop, if there is one.
    pub gateway: Option<IpAddr>,
    /// Index of the device that it leaves by.
    pub device: u32,
    /// The lower, the better.
    pub metric: u32,
}

/// All that is known at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Devices by index.
    pub devices: BTreeMap<u32, Device>,
    /// Addresses of the node, each with the devices that have it.
    pub addresses: BTreeMap<IpAddr, BTreeSet<u32>>,
    /// The length of the prefix that each of them has.
    pub prefix_lengths: BTreeMap<IpAddr, u8>,
    /// Unicast routes of the main table.
    pub routes: Vec<KernelRoute>,
    /// MAC addresses of neighbours, by device and address.
    pub neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
}

/// What tells uplinks from other devices.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names given by the operator; if any, only these are uplinks.
    pub devices: Vec<String>,
    /// The node's addresses: the devices that have them are uplinks.
    pub node_addresses: Vec<IpAddr>,
}

/// A snapshot in the agent's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Devices towards the other nodes; the one with the node's address first.
    pub uplinks: Vec<Device>,
    /// The node's ends of pod interfaces.
    pub pod_devices: Vec<Device>,
    /// Pods by address.
    pub pods: BTreeMap<IpAddr, Pod>,
    /// The node's own addresses, without loopback ones.
    pub host_addresses: BTreeSet<IpAddr>,
}

impl Snapshot {
    /// Names the roles of devices and addresses.
    pub fn view(&self, selection: &Selection) -> View {
        let uplinks = self.uplinks(selection);
        let is_uplink = |device: &Device| uplinks.iter().any(|uplink| uplink.index == device.index);
        let pod_devices: Vec<_> = self
            .devices
            .values()
            .filter(|device| device.peer_elsewhere && !is_uplink(device))
            .cloned()
            .collect();
        let pods = self.pods(&pod_devices);
        let host_addresses =
            self.addresses.keys().filter(|address| !address.is_loopback()).copied().collect();
        View { uplinks, pod_devices, pods, host_addresses }
    }

    /// Whether the kernel routes exactly `prefix` through `gateway` out of `device`.
    pub fn routes_via(&self, prefix: IpNet, gateway: IpAddr, device: u32) -> bool {
        self.routes.iter().any(|route| {
            route.prefix == prefix && route.gateway == Some(gateway) && route.device == device
        })
    }

    /// The devices given; else those with the node's addresses; else that of the default route.
    fn uplinks(&self, selection: &Selection) -> Vec<Device> {
        if !selection.devices.is_empty() {
            let named = |name: &String| self.devices.values().find(|device| device.name == *name);
            return selection.devices.iter().filter_map(named).cloned().collect();
        }
        let mut indices = Vec::new();
        for address in &selection.node_addresses {
            let holders = self.addresses.get(address).into_iter().flatten();
            indices.extend(holders.filter(|index| !indices.contains(index)).collect::<Vec<_>>());
        }
        let found: Vec<_> = indices
            .into_iter()
            .filter_map(|index| self.devices.get(index))
            .filter(|device| !device.loopback)
            .cloned()
            .collect();
        if !found.is_empty() {
            return found;
        }
        let default = self.routes.iter().filter(|route| route.prefix.prefix_len() == 0);
        let best = default.min_by_key(|route| (route.prefix.addr().is_ipv6(), route.metric));
        best.and_then(|route| self.devices.get(&route.device)).cloned().into_iter().collect()
    }

    /// Addresses with a host route through one of `pod_devices`.
    fn pods(&self, pod_devices: &[Device]) -> BTreeMap<IpAddr, Pod> {
        let indices: BTreeSet<u32> = pod_devices.iter().map(|device| device.index).collect();
        let mut gateways = BTreeMap::new();
        for (address, holders) in &self.addresses {
            for index in holders.intersection(&indices).filter(|_| !is_link_local(*address)) {
                gateways.entry((*index, address.is_ipv4())).or_insert(*address);
            }
        }
        let is_pod = |route: &&KernelRoute| {
            route.prefix.prefix_len() == route.prefix.max_prefix_len()
                && route.gateway.is_none()
                && indices.contains(&route.device)
                // The kernel has such routes for the node's own IPv6 addresses too.
                && !self.addresses.contains_key(&route.prefix.addr())
        };
        let pod = |route: &KernelRoute| {
            let (address, device) = (route.prefix.addr(), route.device);
            let gateway = gateways.get(&(device, address.is_ipv4())).copied();
            let mac = self.neighbours.get(&(device, address)).copied().unwrap_or_default();
            (address, Pod { device, gateway, mac })
        };
        self.routes.iter().filter(is_pod).map(pod).collect()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, peer_elsewhere: bool) -> Device {
        let loopback = name == "lo";
        let mac = [2, 0, 0, 0, 0, index as u8];
        Device {
            index,
            name: name.into(),
            mac,
            mtu: 1500,
            pair: peer_elsewhere,
            peer_elsewhere,
            loopback,
            bridge: None,
            up: true,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn route(prefix: &str, gateway: Option<&str>, device: u32) -> KernelRoute {
        let prefix = prefix.parse().expect("a prefix");
        KernelRoute { prefix, gateway: gateway.map(ip), device, metric: 0 }
    }

    /// The reference cluster's worker: a container's eth0, and two pods on ptp interfaces.
    fn worker() -> Snapshot {
        let devices = [
            device(1, "lo", false),
            device(2, "eth0", true),
            device(3, "veth1234", true),
            device(4, "calif00", true),
            device(5, "docker0", false),
        ];
        let addresses = [
            ("127.0.0.1", vec![1]),
            ("::1", vec![1]),
            ("172.18.0.3", vec![2]),
            ("10.10.3.1", vec![3]),
            ("fd00:10:10:3::1", vec![3]),
            ("fe80::1", vec![2, 3, 4]),
        ];
        Snapshot {
            devices: devices.into_iter().map(|device| (device.index, device)).collect(),
            addresses: addresses
                .into_iter()
                .map(|(address, holders)| (ip(address), holders.into_iter().collect()))
                .collect(),
            prefix_lengths: BTreeMap::new(),
            routes: vec![
                route("0.0.0.0/0", Some("172.18.0.1"), 2),
                route("172.18.0.0/16", None, 2),
                route("10.10.0.0/24", Some("172.18.0.2"), 2),
                route("10.10.3.2/32", None, 3),
                route("fd00:10:10:3::2/128", None, 3),
                route("fd00:10:10:3::1/128", None, 3),
                route("10.10.3.3/32", None, 4),
                route("10.10.9.9/32", Some("172.18.0.2"), 2),
                route("10.99.0.1/32", None, 5),
            ],
            neighbours: [((3, ip("10.10.3.2")), [9; 6])].into(),
        }
    }

    #[test]
    fn pods_are_told_from_the_rest() {
        let selection =
            Selection { node_addresses: vec![ip("172.18.0.3")], ..Selection::default() };
        let view = worker().view(&selection);
        assert_eq!(names(&view.uplinks), ["eth0"]);
        assert_eq!(names(&view.pod_devices), ["veth1234", "calif00"]);
        let gateway = Some(ip("10.10.3.1"));
        let expected = [
            (ip("10.10.3.2"), Pod { device: 3, gateway, mac: [9; 6] }),
            (ip("10.10.3.3"), Pod { device: 4, gateway: None, mac: [0; 6] }),
            (
                ip("fd00:10:10:3::2"),
                Pod { device: 3, gateway: Some(ip("fd00:10:10:3::1")), mac: [0; 6] },
            ),
        ];
        assert_eq!(view.pods, expected.into());
        assert!(view.host_addresses.contains(&ip("172.18.0.3")));
        assert!(view.host_addresses.contains(&ip("10.10.3.1")));
        assert!(!view.host_addresses.contains(&ip("127.0.0.1")));
        assert!(!view.host_addresses.contains(&ip("::1")));
    }

    #[test]
    fn uplinks_are_found_with_and_without_help() {
        let snapshot = worker();
        let by_default_route = snapshot.view(&Selection::default());
        assert_eq!(names(&by_default_route.uplinks), ["eth0"]);
        let devices = vec!["docker0".into(), "eth0".into(), "gone".into()];
        let named = snapshot.view(&Selection { devices, ..Selection::default() });
        assert_eq!(names(&named.uplinks), ["docker0", "eth0"]);
        let node_addresses = vec![ip("127.0.0.1")];
        let loopback = snapshot.view(&Selection { node_addresses, ..Selection::default() });
        assert_eq!(names(&loopback.uplinks), ["eth0"], "a loopback device is no uplink");
    }

    #[test]
    fn a_route_is_asked_for_exactly() {
        let snapshot = worker();
        let prefix = "10.10.0.0/24".parse().expect("a prefix");
        assert!(snapshot.routes_via(prefix, ip("172.18.0.2"), 2));
        assert!(!snapshot.routes_via(prefix, ip("172.18.0.4"), 2));
        assert!(!snapshot.routes_via(prefix, ip("172.18.0.2"), 3));
        assert!(!snapshot.routes_via(
            "10.10.0.0/16".parse().expect("a prefix"),
            ip("172.18.0.2"),
            2
        ));
    }

    fn names(devices: &[Device]) -> Vec<&str> {
        devices.iter().map(|device| device.name.as_str()).collect()
    }
}

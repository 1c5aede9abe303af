//! The node's network as the kernel tells it: devices, addresses, routes, neighbours.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tokio::sync::watch;

/// A network device of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; zeros if it has none.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether its other end is in another network namespace, as a pod's interface is.
    pub peer_elsewhere: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
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
    pub fn view(&self, _selection: &Selection) -> View {
        todo!()
    }

    /// Whether the kernel routes exactly `prefix` through `gateway` out of `device`.
    pub fn routes_via(&self, _prefix: IpNet, _gateway: IpAddr, _device: u32) -> bool {
        todo!()
    }
}

/// Follows the network namespace of the calling thread. The first value is complete; a change
/// arrives within some milliseconds. The task ends when the last receiver is dropped.
pub async fn watch() -> Result<watch::Receiver<Arc<Snapshot>>, super::Error> {
    todo!()
}

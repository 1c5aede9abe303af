//! From the kernel's and the cluster's words to the agent's.

use crate::{
    datapath::devices::{Pod, Snapshot, View},
    model::{Model, ObjectName},
    plan::{Network, PodAddress, PodDevice, Uplink},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::SocketAddr};

/// URLs of the API servers, from the slices of their Service.
pub(super) fn api_servers(model: &Model, service: &ObjectName) -> Vec<String> {
    let mut urls = BTreeSet::new();
    for slice in model.slices(service) {
        for port in slice.ports.iter().filter(|port| &*port.name == "https") {
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
            urls.extend(ready.map(|endpoint| {
                format!("https://{}", SocketAddr::from((endpoint.address, port.port.get())))
            }));
        }
    }
    urls.into_iter().collect()
}

/// The kernel's words in the planner's.
pub(super) fn network(snapshot: &Snapshot, view: &View) -> Network {
    let uplinks: Vec<Uplink> = view
        .uplinks
        .iter()
        .map(|device| Uplink {
            device: device.index,
            mtu: u16::try_from(device.mtu).unwrap_or(u16::MAX),
            mac: device.mac,
        })
        .collect();
    let first = uplinks.first().map(|uplink| uplink.device);
    let uplink_addresses: Vec<IpNet> = snapshot
        .addresses
        .iter()
        .filter(|(_, devices)| first.is_some_and(|device| devices.contains(&device)))
        .filter_map(|(address, _)| {
            IpNet::new(*address, *snapshot.prefix_lengths.get(address)?).ok()
        })
        .collect();
    Network {
        uplinks,
        uplink_addresses,
        pods: view
            .pods
            .iter()
            .map(|(address, pod)| {
                let Pod { device, gateway, mac } = *pod;
                (*address, PodAddress { device, mac, gateway })
            })
            .collect(),
        pod_devices: view
            .pod_devices
            .iter()
            .map(|device| PodDevice {
                device: device.index,
                name: device.name.clone(),
                bridge: device
                    .bridge
                    .and_then(|index| Some(snapshot.devices.get(&index)?.name.clone())),
            })
            .collect(),
        host_addresses: view.host_addresses.clone(),
        routes: snapshot
            .routes
            .iter()
            .filter_map(|route| Some((route.prefix.trunc(), route.gateway?, route.device)))
            .collect(),
    }
}

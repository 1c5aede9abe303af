//! Pods.

use super::{Names, Of, namespaced, parse_ip, port_number, protocol};
use crate::model::{HostPort, Pod};
use k8s_openapi::api::core::v1 as core;
use std::net::IpAddr;

/// A Pod.
pub(in crate::k8s) fn pod(object: &core::Pod, names: &mut Names) -> Pod {
    let mut pod = Pod::new(namespaced(&object.metadata));
    let created = object.metadata.creation_timestamp.as_ref();
    pod.created = created.map_or(0, |time| time.0.as_second());
    pod.deleting = object.metadata.deletion_timestamp.is_some();
    let of = Of { kind: "Pod", name: &pod.name };
    if let Some(status) = &object.status {
        pod.ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        pod.addresses = addresses(&of, status);
    }
    if let Some(spec) = &object.spec {
        pod.node = spec.node_name.as_deref().map(|node| names.share(node));
        pod.host_network = spec.host_network == Some(true);
        if !pod.host_network {
            pod.host_ports = host_ports(&of, spec);
        }
    }
    pod
}

/// One address per family, the first of each.
fn addresses(of: &Of<'_>, status: &core::PodStatus) -> Box<[IpAddr]> {
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let texts = listed.chain(&status.pod_ip).filter(|text| !text.is_empty());
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in of.ips("status.podIPs", texts) {
        if ips.iter().all(|known| known.is_ipv4() != ip.is_ipv4()) {
            ips.push(ip);
        }
    }
    ips.into()
}

/// The ports that the kubelet hands to the network plugin (`MakePortMappings`): those of containers
/// and of init containers that keep running.
fn host_ports(of: &Of<'_>, spec: &core::PodSpec) -> Box<[HostPort]> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| {
        let ports = (0_u32..).zip(container.ports.iter().flatten());
        ports.map(move |(index, port)| (format!("{}.ports[{index}]", container.name), port))
    });
    ports.filter_map(|(field, port)| host_port(of, &field, port)).collect()
}

fn host_port(of: &Of<'_>, field: &str, object: &core::ContainerPort) -> Option<HostPort> {
    let number = object.host_port.filter(|number| *number != 0)?;
    let field = |name| format!("{field}.{name}");
    let address = match object.host_ip.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Some(of.kept(&field("hostIP"), text, parse_ip(text))?),
        None => None,
    };
    let target = object.container_port;
    Some(HostPort {
        address,
        port: of.kept(&field("hostPort"), number, port_number(number))?,
        container_port: of.kept(&field("containerPort"), target, port_number(target))?,
        protocol: protocol(of, &field("protocol"), object.protocol.as_deref())?,
    })
}

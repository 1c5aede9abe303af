//! From Kubernetes objects to the model: parse, don't validate.
//!
//! What cannot be used is left out with a warning that names the object and the field; the rest of
//! the object counts.

use crate::model::{
    Conditions, Endpoint, Node, ObjectName, Protocol, Service, ServiceCidr, ServicePort,
    ServiceType, Slice, SlicePort, TrafficPolicy,
};
use ipnet::IpNet;
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    sync::Arc,
    time::SystemTime,
};
use tracing::{debug, warn};

mod pod;
pub(super) use pod::pod;

/// Shares texts that many objects repeat: names of nodes and zones.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashSet<Arc<str>>,
    /// How many there may be before those that nobody uses any more are dropped.
    limit: usize,
}

impl Names {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.limit {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.limit = 64 + 2 * self.known.len();
        }
        let text: Arc<str> = text.into();
        self.known.insert(text.clone());
        text
    }
}

/// The name of a namespaced object.
pub(super) fn namespaced(meta: &ObjectMeta) -> ObjectName {
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    ObjectName::namespaced(namespace, meta.name.as_deref().unwrap_or_default())
}

/// The name of an object that has no namespace.
pub(super) fn cluster(meta: &ObjectMeta) -> ObjectName {
    ObjectName::cluster(meta.name.as_deref().unwrap_or_default())
}

/// A Service.
pub(super) fn service(object: &core::Service) -> Service {
    let mut service = Service::new(namespaced(&object.metadata));
    service.created =
        object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    service.proxy_name = label(&object.metadata, "service.kubernetes.io/service-proxy-name")
        .map(|value| value.as_str().into());
    let Some(spec) = &object.spec else {
        return service;
    };
    let of = Of { kind: "Service", name: &service.name };
    service.kind = of.word(
        "spec.type",
        spec.type_.as_deref(),
        &[
            ("ClusterIP", ServiceType::ClusterIp),
            ("NodePort", ServiceType::NodePort),
            ("LoadBalancer", ServiceType::LoadBalancer),
            ("ExternalName", ServiceType::ExternalName),
        ],
    );
    let policies = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
    service.internal_policy =
        of.word("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &policies);
    service.external_policy =
        of.word("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &policies);
    service.cluster_ips = cluster_ips(&of, spec);
    service.external_ips = of.ips("spec.externalIPs", spec.external_ips.iter().flatten());
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    service.source_ranges = of.nets("spec.loadBalancerSourceRanges", ranges);
    service.load_balancer_vips = of.ips("status.loadBalancer.ingress.ip", vips(object));
    service.affinity = affinity(spec);
    service.algorithm = annotation(&object.metadata, ALGORITHM)
        .and_then(|text| of.kept(ALGORITHM, text, text.parse()));
    service.forwarding = annotation(&object.metadata, FORWARDING)
        .and_then(|text| of.kept(FORWARDING, text, text.parse()));
    service.health_check_node_port = spec
        .health_check_node_port
        .filter(|port| *port != 0)
        .and_then(|number| of.kept("spec.healthCheckNodePort", number, port_number(number)));
    let mut seen = HashSet::new();
    service.ports = (0..)
        .zip(spec.ports.iter().flatten())
        .filter_map(|(index, port)| service_port(&of, index, port))
        .filter(|port| {
            let first = seen.insert((port.name.clone(), port.protocol));
            if !first {
                of.warn("spec.ports.name", &port.name, "two ports have the same name");
            }
            first
        })
        .collect();
    service
}

/// An EndpointSlice, unless it is one that proxies do not read.
pub(super) fn slice(object: &discovery::EndpointSlice, names: &mut Names) -> Option<Slice> {
    let name = namespaced(&object.metadata);
    if object.address_type == "FQDN"
        || label(&object.metadata, "service.kubernetes.io/headless").is_some()
    {
        return None;
    }
    let of = Of { kind: "EndpointSlice", name: &name };
    let Some(owner) = label(&object.metadata, "kubernetes.io/service-name") else {
        debug!(slice = %name, "the slice belongs to no Service");
        return None;
    };
    let v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        other => {
            of.warn("addressType", other, "not an address family");
            return None;
        }
    };
    let ports = (0..).zip(object.ports.iter().flatten());
    let endpoints = (0..).zip(object.endpoints.iter().flatten());
    Some(Slice {
        service: ObjectName::namespaced(name.namespace(), owner),
        ports: ports.filter_map(|(index, port)| slice_port(&of, index, port)).collect(),
        endpoints: endpoints
            .filter_map(|(index, endpoint)| slice_endpoint(&of, index, endpoint, v4, names))
            .collect(),
        trigger_time: trigger_time(&object.metadata),
        name,
    })
}

/// Type of a node's addresses inside the cluster.
const INTERNAL: &str = "InternalIP";

/// A Node.
pub(super) fn node(object: &core::Node, names: &mut Names) -> Node {
    let name = cluster(&object.metadata);
    let of = Of { kind: "Node", name: &name };
    let mut node = Node::new(name.name());
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut further = Vec::new();
    for wanted in [INTERNAL, "ExternalIP"] {
        for address in addresses.clone().filter(|address| address.type_ == wanted) {
            match of.kept("status.addresses", &address.address, parse_ip(&address.address)) {
                Some(IpAddr::V4(v4)) if node.v4.is_none() => node.v4 = Some(v4),
                Some(IpAddr::V6(v6)) if node.v6.is_none() => node.v6 = Some(v6),
                Some(address) if wanted == INTERNAL => further.push(address),
                Some(_) | None => {}
            }
        }
    }
    node.further_addresses = further.into();
    node.zone = label(&object.metadata, "topology.kubernetes.io/zone")
        .filter(|zone| !zone.is_empty())
        .map(|zone| names.share(zone));
    node.leaving = object.metadata.deletion_timestamp.is_some();
    if let Some(spec) = &object.spec {
        let cidrs = spec.pod_cidrs.iter().flatten();
        node.pod_cidrs = if spec.pod_cidrs.as_ref().is_some_and(|cidrs| !cidrs.is_empty()) {
            of.nets("spec.podCIDRs", cidrs)
        } else {
            of.nets("spec.podCIDR", spec.pod_cidr.iter())
        };
        node.pod_cidrs = node.pod_cidrs.into_iter().chain(further_blocks(&of, object)).collect();
        node.leaving |=
            spec.taints.iter().flatten().any(|taint| taint.key == "ToBeDeletedByClusterAutoscaler");
    }
    node
}

/// Blocks of pod addresses besides `spec.podCIDRs`, ranges with commas between them.
fn further_blocks(of: &Of<'_>, object: &core::Node) -> Box<[IpNet]> {
    const ANNOTATION: &str = "datapath/pod-blocks";
    let text = annotation(&object.metadata, ANNOTATION).map_or("", String::as_str);
    let blocks: Vec<String> = text
        .split(',')
        .map(|block| block.trim().to_owned())
        .filter(|block| !block.is_empty())
        .collect();
    of.nets(ANNOTATION, blocks.iter())
}

/// A ServiceCIDR.
pub(super) fn service_cidr(object: &networking::ServiceCIDR) -> ServiceCidr {
    let name = cluster(&object.metadata);
    let of = Of { kind: "ServiceCIDR", name: &name };
    let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    ServiceCidr { cidrs: of.nets("spec.cidrs", cidrs), name }
}

/// The object that is being read, for warnings.
struct Of<'a> {
    kind: &'static str,
    name: &'a ObjectName,
}

impl Of<'_> {
    fn warn(&self, field: &str, value: impl Display, reason: impl Display) {
        warn!(kind = self.kind, object = %self.name, field, %value, %reason,
            "left out what cannot be used");
    }

    /// The value, or a warning why there is none.
    fn kept<T>(&self, field: &str, value: impl Display, read: Result<T, &str>) -> Option<T> {
        read.map_err(|reason| self.warn(field, value, reason)).ok()
    }

    fn word<T: Copy + Default>(&self, field: &str, text: Option<&str>, words: &[(&str, T)]) -> T {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return T::default();
        };
        let known = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.kept(field, text, known.ok_or("not a known word")).unwrap_or_default()
    }

    fn ips<'a>(&self, field: &str, texts: impl Iterator<Item = &'a String>) -> Box<[IpAddr]> {
        texts.filter_map(|text| self.kept(field, text, parse_ip(text))).collect()
    }

    fn nets<'a>(&self, field: &str, texts: impl Iterator<Item = &'a String>) -> Box<[IpNet]> {
        texts.filter_map(|text| self.kept(field, text, parse_net(text))).collect()
    }
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.labels.as_ref()?.get(key)
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.annotations.as_ref()?.get(key)
}

/// One cluster address per family, the first of each; none for headless Services.
fn cluster_ips(of: &Of<'_>, spec: &core::ServiceSpec) -> Box<[IpAddr]> {
    let is_set = |text: &&String| !text.is_empty() && *text != "None";
    if spec.cluster_ip.as_deref() == Some("None") {
        return Box::default();
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    let listed = spec.cluster_ips.iter().flatten();
    for ip in of.ips("spec.clusterIPs", listed.chain(&spec.cluster_ip).filter(is_set)) {
        if ips.iter().all(|known| known.is_ipv4() != ip.is_ipv4()) {
            ips.push(ip);
        } else if !ips.contains(&ip) {
            of.warn("spec.clusterIPs", ip, "a second address of the same family");
        }
    }
    ips.into()
}

/// Addresses of load balancers whose traffic arrives with that destination.
fn vips(object: &core::Service) -> impl Iterator<Item = &String> {
    let status = object.status.iter().filter_map(|status| status.load_balancer.as_ref());
    status
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_ref())
        .filter(|ip| !ip.is_empty())
}

fn affinity(spec: &core::ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let client = config.and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| client.timeout_seconds).unwrap_or(DEFAULT_AFFINITY);
    u32::try_from(seconds).ok().filter(|seconds| *seconds != 0)
}

fn service_port(of: &Of<'_>, index: u32, object: &core::ServicePort) -> Option<ServicePort> {
    let field = |name| format!("spec.ports[{index}].{name}");
    let node_port = object.node_port.filter(|number| *number != 0);
    Some(ServicePort {
        name: object.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(of, &field("protocol"), object.protocol.as_deref())?,
        port: of.kept(&field("port"), object.port, port_number(object.port))?,
        node_port: node_port
            .and_then(|number| of.kept(&field("nodePort"), number, port_number(number))),
    })
}

fn slice_port(of: &Of<'_>, index: u32, object: &discovery::EndpointPort) -> Option<SlicePort> {
    let field = |name| format!("ports[{index}].{name}");
    let Some(name) = object.name.as_deref() else {
        of.warn(&field("name"), "", "no name");
        return None;
    };
    let number = object.port.unwrap_or(0);
    Some(SlicePort {
        name: name.into(),
        protocol: protocol(of, &field("protocol"), object.protocol.as_deref())?,
        port: of.kept(&field("port"), number, port_number(number))?,
    })
}

fn slice_endpoint(
    of: &Of<'_>,
    index: u32,
    object: &discovery::Endpoint,
    v4: bool,
    names: &mut Names,
) -> Option<Endpoint> {
    let text = object.addresses.first().map_or("", String::as_str);
    let read = parse_ip(text).and_then(|ip| {
        if ip.is_ipv4() == v4 { Ok(ip) } else { Err("not of the slice's address family") }
    });
    let address = of.kept(&format!("endpoints[{index}].addresses[0]"), text, read)?;
    let conditions = object.conditions.as_ref();
    let default = Conditions::default();
    let hints = object.hints.as_ref();
    let for_zones = hints.into_iter().flat_map(|hints| hints.for_zones.iter().flatten());
    let for_nodes = hints.into_iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    Some(Endpoint {
        address,
        node: object.node_name.as_deref().map(|node| names.share(node)),
        conditions: Conditions {
            ready: conditions.and_then(|c| c.ready).unwrap_or(default.ready),
            serving: conditions.and_then(|c| c.serving).unwrap_or(default.serving),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(default.terminating),
        },
        for_zones: for_zones.map(|zone| names.share(&zone.name)).collect(),
        for_nodes: for_nodes.map(|node| names.share(&node.name)).collect(),
    })
}

fn protocol(of: &Of<'_>, field: &str, text: Option<&str>) -> Option<Protocol> {
    let text = text.unwrap_or("TCP");
    let read = match text {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        _ => Err("not a known protocol"),
    };
    of.kept(field, text, read)
}

fn trigger_time(meta: &ObjectMeta) -> Option<SystemTime> {
    let annotations: &BTreeMap<String, String> = meta.annotations.as_ref()?;
    let text = annotations.get("endpoints.kubernetes.io/last-change-trigger-time")?;
    let time: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    Some(time.into())
}

fn port_number(number: i32) -> Result<NonZeroU16, &'static str> {
    u16::try_from(number).ok().and_then(NonZeroU16::new).ok_or("not a port")
}

/// An address as Kubernetes reads it: leading zeros in IPv4 are decimal, an IPv4-mapped address is
/// an IPv4 address.
fn parse_ip(text: &str) -> Result<IpAddr, &'static str> {
    let ip = text.trim().parse::<IpAddr>().ok().or_else(|| parse_sloppy_v4(text.trim()));
    ip.map(|ip| ip.to_canonical()).ok_or("not an address")
}

fn parse_sloppy_v4(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

fn parse_net(text: &str) -> Result<IpNet, &'static str> {
    let read = || {
        let (ip, len) = text.trim().split_once('/')?;
        IpNet::new(parse_ip(ip).ok()?, len.parse().ok()?).ok()
    };
    read().map(|net| net.trunc()).ok_or("not a range of addresses")
}

/// Annotation of a Service: how its backends are chosen.
const ALGORITHM: &str = "datapath/lb-algorithm";

/// Annotation of a Service: how what comes from outside reaches a backend on another node.
const FORWARDING: &str = "datapath/forwarding";

/// `timeoutSeconds` where the Service gives none (the API server's own default).
const DEFAULT_AFFINITY: i32 = 10_800;

#[cfg(test)]
mod tests;

//! The objects as Kubernetes writes them.

use super::facts::{
    Endpoint, Ingress, Node, Object, Port, Service, ServiceCidr, Slice, SlicePort, Type,
};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

impl Service {
    /// As Kubernetes writes it.
    pub fn json(&self) -> Value {
        let mut spec = Map::new();
        let policy = |local| if local { "Local" } else { "Cluster" };
        let mut set = |key: &str, value: Value| _ = spec.insert(key.to_owned(), value);
        set("type", self.kind.word().into());
        set("ports", self.ports.iter().map(Port::json).collect());
        match self.cluster_ips.first() {
            None if self.kind == Type::ExternalName => {}
            None => set("clusterIP", "None".into()),
            Some(first) => {
                let families = |ip: &IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                let dual = self.cluster_ips.len() > 1;
                set("clusterIP", json!(first));
                set("clusterIPs", json!(self.cluster_ips));
                set("ipFamilies", self.cluster_ips.iter().map(families).collect());
                set("ipFamilyPolicy", if dual { "RequireDualStack" } else { "SingleStack" }.into());
            }
        }
        if self.kind == Type::ExternalName {
            set("externalName", "elsewhere.example".into());
        } else {
            set("internalTrafficPolicy", policy(self.internal_local).into());
        }
        if let Some(seconds) = self.affinity {
            set("sessionAffinity", "ClientIP".into());
            set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": seconds}}));
        }
        if self.kind == Type::LoadBalancer {
            set("allocateLoadBalancerNodePorts", false.into());
        }
        let external = matches!(self.kind, Type::NodePort | Type::LoadBalancer);
        if external || !self.external_ips.is_empty() {
            set("externalTrafficPolicy", policy(self.external_local).into());
        }
        if !self.external_ips.is_empty() {
            set("externalIPs", json!(self.external_ips));
        }
        if !self.source_ranges.is_empty() {
            set("loadBalancerSourceRanges", json!(self.source_ranges));
        }
        let labels = self.proxy_name.iter();
        let labels: Map<_, _> = labels
            .map(|name| ("service.kubernetes.io/service-proxy-name".to_owned(), json!(name)))
            .collect();
        json!({
            "apiVersion": "v1", "kind": Self::KIND,
            "metadata": {
                "name": self.name, "namespace": "default", "labels": labels,
                "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", self.created),
            },
            "spec": spec,
            "status": self.status(),
        })
    }

    /// Its `status`.
    pub fn status(&self) -> Value {
        let ingress = self.ingress.iter().map(|Ingress { ip, proxied }| {
            json!({"ip": ip, "ipMode": if *proxied { "Proxy" } else { "VIP" }})
        });
        json!({"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}})
    }
}

impl Type {
    const fn word(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

impl Port {
    fn json(&self) -> Value {
        let Self { name, protocol, port, node_port } = self;
        let mut value = json!({"name": name, "protocol": protocol.to_string(), "port": port});
        if let Some(node_port) = node_port {
            value["nodePort"] = json!(node_port);
        }
        value
    }
}

impl Slice {
    /// As Kubernetes writes it.
    pub fn json(&self) -> Value {
        let mut labels = Map::new();
        if let Some(service) = &self.service {
            labels.insert("kubernetes.io/service-name".to_owned(), json!(service));
        }
        if self.headless {
            labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
        }
        let ports = self.ports.iter().map(|SlicePort { name, protocol, port }| {
            json!({"name": name, "protocol": protocol.to_string(), "port": port})
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": Self::KIND,
            "metadata": {"name": self.name, "namespace": "default", "labels": labels},
            "addressType": if self.v6 { "IPv6" } else { "IPv4" },
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": self.endpoints.iter().map(Endpoint::json).collect::<Vec<_>>(),
        })
    }
}

impl Endpoint {
    fn json(&self) -> Value {
        let Self { address, node, ready, serving, terminating, for_zones, for_nodes } = self;
        let hints = |names: &[String]| -> Vec<Value> {
            names.iter().map(|name| json!({"name": name})).collect()
        };
        json!({
            "addresses": [address], "nodeName": node,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "hints": {"forZones": hints(for_zones), "forNodes": hints(for_nodes)},
        })
    }
}

impl Node {
    /// As Kubernetes writes it.
    pub fn json(&self) -> Value {
        let labels = self.zone.iter();
        let labels: Map<_, _> =
            labels.map(|zone| ("topology.kubernetes.io/zone".to_owned(), json!(zone))).collect();
        let addresses = self.addresses.iter();
        let addresses = addresses.map(|ip| json!({"type": "InternalIP", "address": ip}));
        json!({
            "apiVersion": "v1", "kind": Self::KIND,
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"podCIDR": self.pod_cidrs.first(), "podCIDRs": self.pod_cidrs},
            "status": {"addresses": addresses.collect::<Vec<_>>()},
        })
    }
}

impl ServiceCidr {
    /// As Kubernetes writes it.
    pub fn json(&self) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": Self::KIND,
            "metadata": {"name": self.name},
            "spec": {"cidrs": self.cidrs},
        })
    }
}

impl Object {
    /// As Kubernetes writes it.
    pub fn json(&self) -> Value {
        match self {
            Self::Service(object) => object.json(),
            Self::Slice(object) => object.json(),
            Self::Node(object) => object.json(),
            Self::ServiceCidr(object) => object.json(),
        }
    }
}

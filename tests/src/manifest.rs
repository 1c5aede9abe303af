//! The objects that the lab registers, as Kubernetes would have them.

use crate::{
    proto::Proto,
    topology::{Dual, NodeSpec},
};
use anyhow::{Context as _, Result};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Port on which the pods of the lab serve, TCP and UDP, unless they are told otherwise.
pub const POD_PORT: u16 = 8080;
/// The same for pods in the host network.
pub const HOST_POD_PORT: u16 = 9080;

/// What a pod is to be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Name in the namespace `default`, also the name it answers with.
    pub name: String,
    /// Node it is on.
    pub node: &'static NodeSpec,
    /// Labels, for selectors.
    pub labels: Vec<(String, String)>,
    /// Whether it lives in the node's network namespace.
    pub host_network: bool,
    /// Ports it serves, TCP and UDP.
    pub ports: Vec<u16>,
    /// Ports of its node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Number of its address in its node's ranges, if it is not to be the next one.
    pub index: Option<u8>,
}

/// A port of a node that leads to a pod.
#[derive(Clone, Debug)]
pub struct HostPort {
    /// The only address of the node that has it; all if none.
    pub address: Option<IpAddr>,
    /// The port of the node.
    pub port: u16,
    /// The port of the pod.
    pub target: u16,
    /// Its protocol.
    pub proto: Proto,
}

impl HostPort {
    fn object(&self) -> Value {
        let protocol = match self.proto {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
            Proto::Sctp => "SCTP",
        };
        let mut port =
            json!({"containerPort": self.target, "hostPort": self.port, "protocol": protocol});
        if let Some(address) = self.address {
            port["hostIP"] = json!(address);
        }
        port
    }
}

impl PodSpec {
    /// A pod with the label `app`, serving on [`POD_PORT`].
    pub fn new(name: &str, node: &'static NodeSpec, app: &str) -> Self {
        Self {
            name: name.to_owned(),
            node,
            labels: vec![("app".to_owned(), app.to_owned())],
            host_network: false,
            ports: vec![POD_PORT],
            host_ports: Vec::new(),
            index: None,
        }
    }

    /// The same at this number of its node's ranges.
    #[must_use]
    pub fn at(mut self, index: u8) -> Self {
        self.index = Some(index);
        self
    }

    /// The same in the network of the node, serving on [`HOST_POD_PORT`].
    #[must_use]
    pub fn on_host_network(mut self) -> Self {
        self.host_network = true;
        self.ports = vec![HOST_POD_PORT];
        self
    }

    /// The same serving on these ports.
    #[must_use]
    pub fn serving(mut self, ports: &[u16]) -> Self {
        self.ports = ports.to_vec();
        self
    }

    /// The same with ports of its node.
    #[must_use]
    pub fn with_host_ports(mut self, host_ports: &[HostPort]) -> Self {
        self.host_ports = host_ports.to_vec();
        self
    }

    fn label_map(&self) -> Value {
        self.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
    }

    /// The object as a client creates it.
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": "default", "labels": self.label_map()},
            "spec": {
                "nodeName": self.node.name,
                "hostNetwork": self.host_network,
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "lab", "image": "lab",
                    "ports": self.ports.iter().map(|port| json!({"containerPort": port}))
                        .chain(self.host_ports.iter().map(HostPort::object))
                        .collect::<Vec<_>>(),
                }],
            },
        })
    }
}

/// The roles that the manifests give the agents over the whole cluster.
pub fn cluster_roles() -> Result<Vec<ClusterRole>> {
    let documents = include_str!("../../manifests/rbac.yaml").split("\n---\n");
    documents
        .filter(|document| document.contains("\nkind: ClusterRole\n"))
        .map(|document| serde_saphyr::from_str(document).context("a role of the manifests"))
        .collect()
}

/// The status that a kubelet would report.
pub fn pod_status(address: Dual, node: &NodeSpec, ready: bool) -> Value {
    let state = if ready { "True" } else { "False" };
    let now = Timestamp::now();
    let condition = |kind: &str| json!({"type": kind, "status": state, "lastTransitionTime": now});
    let ips = |dual: Dual| dual.both().map(|ip| json!({"ip": ip})).to_vec();
    json!({
        "phase": "Running",
        "podIP": address.v4, "podIPs": ips(address),
        "hostIP": node.address().v4, "hostIPs": ips(node.address()),
        "conditions": [condition("Ready"), condition("ContainersReady")],
    })
}

/// The object of a node, status included.
pub fn node(spec: &NodeSpec) -> Value {
    let address = |ip| json!({"type": "InternalIP", "address": ip});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": spec.name, "labels": {
            "kubernetes.io/hostname": spec.name, "kubernetes.io/os": "linux",
            "mynode": spec.label,
        }},
        "spec": {"podCIDR": spec.pod_ranges()[0], "podCIDRs": spec.pod_ranges()},
        "status": {
            "addresses": [
                address(json!(spec.address().v4)), address(json!(spec.address().v6)),
                {"type": "Hostname", "address": spec.name},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
        },
    })
}

/// A dual-stack Service; `spec` gives what else it has (`ports` at least).
pub fn service(name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ipFamilyPolicy": "PreferDualStack"},
    });
    merge(&mut object["spec"], spec);
    object
}

/// Applies a JSON merge patch (RFC 7396).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match (value, target.as_object_mut()) {
            (Value::Null, Some(target)) => {
                target.remove(key);
            }
            (value, Some(target)) => merge(target.entry(key).or_insert(Value::Null), value),
            (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_replaces_adds_and_removes() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut target, &json!({"a": {"b": null, "e": 3}, "d": [2], "f": "x"}));
        assert_eq!(target, json!({"a": {"c": 2, "e": 3}, "d": [2], "f": "x"}));
    }
}

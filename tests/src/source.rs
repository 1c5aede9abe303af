//! The cluster's objects as files, for agents that run with `--source` and no API server.
//!
//! The lab is its own EndpointSlice controller here: slices follow from selectors and pods. Each
//! file is replaced as a whole by a rename.

use crate::{
    manifest::{self, PodSpec, merge},
    topology::{Dual, Family, NodeSpec},
};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// First number in the Service ranges that is given out.
const FIRST_ADDRESS: u16 = 10;
/// First NodePort that is given out.
const FIRST_NODE_PORT: u16 = 30_000;

/// The objects and the folder they are written to.
#[derive(Debug)]
pub struct Source {
    folder: PathBuf,
    nodes: BTreeMap<String, Value>,
    services: BTreeMap<String, Value>,
    pods: BTreeMap<String, SourcePod>,
    given: u16,
}

#[derive(Debug)]
struct SourcePod {
    spec: PodSpec,
    address: Dual,
    ready: bool,
    terminating: bool,
}

impl SourcePod {
    fn object(&self) -> Value {
        let mut object = self.spec.object();
        object["status"] = manifest::pod_status(self.address, self.spec.node, self.ready);
        object
    }
}

fn pod_file(name: &str) -> String {
    format!("pod-{name}.yaml")
}

impl Source {
    /// Starts with no objects in a new folder.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            pods: BTreeMap::new(),
            given: 0,
        })
    }

    /// The folder for `--source`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes nodes.
    pub fn add_nodes(&mut self, specs: &[NodeSpec]) -> Result<()> {
        for spec in specs {
            self.nodes.insert(spec.name.to_owned(), manifest::node(spec));
            self.patch_node(spec.name, &json!({}))?;
        }
        Ok(())
    }

    /// Merges into a Node.
    pub fn patch_node(&mut self, name: &str, patch: &Value) -> Result<()> {
        let node = self.nodes.get_mut(name).context("no such node")?;
        merge(node, patch);
        let text = node.to_string();
        self.write(&format!("node-{name}.yaml"), &text)
    }

    /// Adds pods that are ready; the slices follow.
    pub fn add_pods(&mut self, pods: &[(PodSpec, Dual)]) -> Result<()> {
        for (spec, address) in pods {
            let pod = SourcePod {
                spec: spec.clone(),
                address: *address,
                ready: true,
                terminating: false,
            };
            self.write(&pod_file(&spec.name), &pod.object().to_string())?;
            self.pods.insert(spec.name.clone(), pod);
        }
        self.write_slices()
    }

    /// Sets whether a pod is ready.
    pub fn set_ready(&mut self, name: &str, ready: bool) -> Result<()> {
        self.pods.get_mut(name).context("no such pod")?.ready = ready;
        self.write_slices()
    }

    /// Removes a pod, or has it terminate.
    pub fn delete_pod(&mut self, name: &str, terminating: bool) -> Result<()> {
        if terminating {
            self.pods.get_mut(name).context("no such pod")?.terminating = true;
        } else {
            self.pods.remove(name).context("no such pod")?;
            fs::remove_file(self.folder.join(pod_file(name)))?;
        }
        self.write_slices()
    }

    /// Adds a Service and fills in what an API server would: addresses and NodePorts.
    pub fn create_service(&mut self, mut object: Value) -> Result<Value> {
        let name = object["metadata"]["name"].as_str().context("no name")?.to_owned();
        let number = FIRST_ADDRESS + self.given;
        let spec = &mut object["spec"];
        let families: Vec<String> = match spec["ipFamilies"].as_array() {
            Some(families) => families.iter().filter_map(|f| f.as_str().map(Into::into)).collect(),
            None => vec!["IPv4".to_owned(), "IPv6".to_owned()],
        };
        if spec["clusterIP"].is_null() {
            let addresses: Vec<String> = families
                .iter()
                .map(|family| match family.as_str() {
                    "IPv4" => format!("10.200.1.{number}"),
                    _ => format!("fd00:10:200:1::{number:x}"),
                })
                .collect();
            spec["clusterIP"] = json!(addresses.first());
            spec["clusterIPs"] = json!(addresses);
        }
        spec["ipFamilies"] = json!(families);
        if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
            let ports = spec["ports"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
            for (index, port) in (0_u16..).zip(ports) {
                if port["nodePort"].is_null() {
                    port["nodePort"] = json!(FIRST_NODE_PORT + number * 8 + index);
                }
            }
        }
        self.given += 1;
        self.services.insert(name.clone(), object.clone());
        self.write_service(&name)?;
        self.write_slices()?;
        Ok(object)
    }

    /// Merges into a Service.
    pub fn patch_service(&mut self, name: &str, patch: &Value) -> Result<Value> {
        let service = self.services.get_mut(name).context("no such Service")?;
        merge(service, patch);
        let patched = service.clone();
        self.write_service(name)?;
        self.write_slices()?;
        Ok(patched)
    }

    /// Removes a Service and its slices.
    pub fn delete_service(&mut self, name: &str) -> Result<()> {
        self.services.remove(name).context("no such Service")?;
        fs::remove_file(self.folder.join(format!("service-{name}.yaml")))?;
        fs::remove_file(self.folder.join(format!("slices-{name}.yaml")))?;
        Ok(())
    }

    fn write_service(&self, name: &str) -> Result<()> {
        let service = self.services.get(name).context("no such Service")?;
        self.write(&format!("service-{name}.yaml"), &service.to_string())
    }

    fn write_slices(&self) -> Result<()> {
        for (name, service) in &self.services {
            let slices = Family::ALL.map(|family| self.slice(name, service, family).to_string());
            let text = slices.join("\n---\n");
            let path = format!("slices-{name}.yaml");
            if fs::read_to_string(self.folder.join(&path)).is_ok_and(|old| old.trim() == text) {
                continue;
            }
            self.write(&path, &text)?;
        }
        Ok(())
    }

    fn slice(&self, name: &str, service: &Value, family: Family) -> Value {
        let selected = |pod: &&SourcePod| {
            service["spec"]["selector"].as_object().is_some_and(|selector| {
                selector.iter().all(|(key, value)| {
                    pod.spec.labels.iter().any(|(k, v)| k == key && value == v.as_str())
                })
            })
        };
        let endpoints: Vec<_> = self
            .pods
            .values()
            .filter(selected)
            .map(|pod| {
                let address =
                    if pod.spec.host_network { pod.spec.node.address() } else { pod.address };
                json!({
                    "addresses": [address.get(family)],
                    "conditions": {
                        "ready": pod.ready && !pod.terminating,
                        "serving": pod.ready,
                        "terminating": pod.terminating,
                    },
                    "nodeName": pod.spec.node.name,
                })
            })
            .collect();
        let ports: Vec<_> = service["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| {
                let target = if port["targetPort"].is_null() { "port" } else { "targetPort" };
                json!({
                    "name": port["name"].as_str().unwrap_or_default(),
                    "port": port[target],
                    "protocol": port["protocol"].as_str().unwrap_or("TCP"),
                })
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{family}"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": match family { Family::V4 => "IPv4", Family::V6 => "IPv6" },
            "endpoints": endpoints, "ports": ports,
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        // Not an object file, should a reader see it: the name begins with a dot.
        let new = self.folder.join(format!(".{name}.new"));
        fs::write(&new, format!("{text}\n"))?;
        fs::rename(&new, self.folder.join(name)).with_context(|| format!("write {name}"))
    }
}

//! Services of a lab, made and changed from tests.

use crate::{
    lab::Lab,
    manifest::{self, POD_PORT},
    space::lock,
    topology::Family,
};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// A Service as the API server knows it.
#[derive(Clone, Debug)]
pub struct Service(Value);

impl From<Value> for Service {
    fn from(object: Value) -> Self {
        Self(object)
    }
}

impl Service {
    /// The whole object.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its ClusterIP of a family.
    pub fn ip(&self, family: Family) -> Result<IpAddr> {
        self.0["spec"]["clusterIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok())
            .find(|ip| ip.is_ipv4() == (family == Family::V4))
            .with_context(|| format!("{} has no ClusterIP of family {family}", self.name()))
    }

    /// Its ClusterIP of a family with a port.
    pub fn at(&self, family: Family, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.ip(family)?, port))
    }

    /// The NodePort of its port number `index`.
    pub fn node_port(&self, index: usize) -> Result<u16> {
        self.0["spec"]["ports"][index]["nodePort"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .with_context(|| format!("{} has no NodePort", self.name()))
    }
}

/// The ports 80 over TCP and UDP that lead to `target`.
pub fn web_ports(target: u16) -> Value {
    json!([
        {"name": "http", "port": 80, "targetPort": target, "protocol": "TCP"},
        {"name": "udp", "port": 80, "targetPort": target, "protocol": "UDP"},
    ])
}

/// A selector for `app` with [`web_ports`] to [`POD_PORT`].
pub fn web(app: &str) -> Value {
    json!({"selector": {"app": app}, "ports": web_ports(POD_PORT)})
}

impl Lab {
    /// Creates a dual-stack Service in the namespace `default`.
    pub fn create_service(&self, name: &str, spec: &Value) -> Result<Service> {
        let object = manifest::service(name, spec);
        if let Ok(source) = self.source() {
            return lock(source).create_service(object).map(Service);
        }
        let mut created = self.api()?.create_services(vec![object])?;
        created.pop().map(Service).context("no Service came back")
    }

    /// Merges into a Service; a patch with `status` changes only that.
    pub fn patch_service(&self, name: &str, patch: &Value) -> Result<Service> {
        match self.source() {
            Ok(source) => lock(source).patch_service(name, patch),
            Err(_) => self.api()?.patch_service(name, patch),
        }
        .map(Service)
    }

    /// Deletes a Service.
    pub fn delete_service(&self, name: &str) -> Result<()> {
        match self.source() {
            Ok(source) => lock(source).delete_service(name),
            Err(_) => self.api()?.delete_services(&[name.to_owned()]),
        }
    }

    /// Merges into a Node.
    pub fn patch_node(&self, name: &str, patch: &Value) -> Result<()> {
        match self.source() {
            Ok(source) => lock(source).patch_node(name, patch),
            Err(_) => self.api()?.patch_node(name, patch),
        }
    }
}

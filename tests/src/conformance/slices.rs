//! EndpointSlices of a case.

use super::{
    case::Slice,
    place::{Endpoint, HOME},
    trial::{PROTOCOLS, Trial},
    world::slice,
};
use crate::{
    manifest::{POD_PORT, merge},
    topology::Family,
};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;

impl Trial<'_> {
    /// Sets a Service's endpoints.
    pub fn set_endpoints(&self, name: &'static str, endpoints: &[Endpoint]) -> Result<()> {
        self.put_slices(name, &[Slice { endpoints: endpoints.to_vec(), more: json!({}) }])
    }

    pub(super) fn put_slices(&self, name: &'static str, slices: &[Slice]) -> Result<()> {
        let mut objects = Vec::new();
        for (index, Slice { endpoints, more }) in slices.iter().enumerate() {
            let mut ports: Vec<u16> = endpoints.iter().map(|endpoint| endpoint.port).collect();
            ports.sort_unstable();
            ports.dedup();
            if ports.is_empty() {
                ports.push(POD_PORT);
            }
            for port in ports {
                for family in Family::ALL {
                    let entries = endpoints
                        .iter()
                        .filter(|endpoint| endpoint.port == port)
                        .map(|endpoint| {
                            Ok(endpoint.entry(self.lab().pod(endpoint.pod)?.address.get(family)))
                        })
                        .collect::<Result<Vec<_>>>()?;
                    let whole = self.name(name);
                    let own = format!("{whole}-{family}-{port}-{index}");
                    let mut object = slice(&own, &whole, family, &slice_ports(port), &entries);
                    merge(&mut object, more);
                    objects.push(object);
                }
            }
        }
        let names: BTreeSet<String> = objects
            .iter()
            .filter_map(|object| object["metadata"]["name"].as_str().map(Into::into))
            .collect();
        let api = self.lab().api()?;
        api.apply_slices(objects)?;
        let old = self.replace_slices(name, names.clone());
        self.note_change();
        api.delete_slices(old.difference(&names).cloned().collect())
    }

    /// Slices with one endpoint that has the addresses of all these pods.
    pub fn put_addresses(&self, endpoints: &[Endpoint]) -> Result<()> {
        let ips = |family| {
            let ip = |end: &Endpoint| Ok(json!(self.lab().pod(end.pod)?.address.get(family)));
            endpoints.iter().map(ip).collect::<Result<Vec<_>>>()
        };
        for family in Family::ALL {
            let entry = json!({"addresses": ips(family)?, "nodeName": HOME.name});
            self.put_raw(&format!("many-{family}"), family, &[entry], &json!({}))?;
        }
        Ok(())
    }

    /// One slice beside the others.
    pub fn put_raw(
        &self,
        suffix: &str,
        family: Family,
        entries: &[Value],
        more: &Value,
    ) -> Result<()> {
        let name = self.name(suffix);
        let mut object = slice(&name, &self.name(""), family, &slice_ports(POD_PORT), entries);
        merge(&mut object, more);
        self.lab().api()?.apply_slices(vec![object])?;
        self.add_slice(name);
        self.note_change();
        Ok(())
    }
}

/// The ports of a slice: one number over each protocol.
fn slice_ports(number: u16) -> Value {
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "port": number, "protocol": protocol});
    PROTOCOLS.map(port).to_vec().into()
}

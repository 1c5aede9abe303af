//! Pods and their interfaces.

use super::table::{list, table};
use crate::{
    datapath::{Error, Reader, device_names},
    plan::Tables,
    roster::Roster,
};
use datapath_common::AddressKind;
use ipnet::IpNet;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// A pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadRow {
    /// Namespace and name, as far as they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    networks: Vec<IpNet>,
    /// The node's end of its interface; none while the pod is being connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
}

/// The pods of this node, by name.
pub(super) fn read(reader: &Reader, roster: &Roster) -> Result<Vec<WorkloadRow>, Error> {
    Ok(build(&reader.tables()?, &device_names()?, roster))
}

fn build(tables: &Tables, devices: &HashMap<u32, String>, roster: &Roster) -> Vec<WorkloadRow> {
    let node = roster.own().map(|node| node.name.clone());
    let mut found: BTreeMap<(Option<String>, u32), Vec<IpNet>> = BTreeMap::new();
    for (addr, entry) in tables.addresses.iter().filter(|(_, one)| one.kind == AddressKind::POD) {
        let workload = roster.pod_of(addr.ip()).map(|pod| pod.name.clone());
        found.entry((workload, entry.device)).or_default().push(addr.ip().into());
    }
    let connected = found.into_iter().map(|((workload, device), mut networks)| {
        networks.sort();
        let known = devices.get(&device).cloned();
        let interface = Some(known.unwrap_or_else(|| format!("#{device}")));
        WorkloadRow { workload, node: node.clone(), networks, interface }
    });
    let mut rows: Vec<_> = connected.collect();
    let is_missing = |name: &str| rows.iter().all(|row| row.workload.as_deref() != Some(name));
    let missing: Vec<_> = roster.pods.iter().filter(|pod| is_missing(&pod.name)).collect();
    rows.extend(missing.into_iter().map(|pod| WorkloadRow {
        workload: Some(pod.name.clone()),
        node: node.clone(),
        networks: pod.addresses.iter().copied().map(IpNet::from).collect(),
        interface: None,
    }));
    // Those without a name last.
    rows.sort_by_key(|row| (row.workload.is_none(), row.workload.clone(), row.networks.clone()));
    rows
}

/// One line per pod.
pub(super) fn render(rows: &[WorkloadRow]) -> String {
    let dash = || "-".to_owned();
    let line = |row: &WorkloadRow| {
        let networks: Vec<_> = row.networks.iter().map(ToString::to_string).collect();
        [
            row.workload.clone().unwrap_or_else(dash),
            row.node.clone().unwrap_or_else(dash),
            list(&networks, networks.len()),
            row.interface.clone().unwrap_or_else(dash),
        ]
    };
    table(["workload", "node", "networks", "interface"], rows.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::{NodeEntry, PodEntry};
    use datapath_common::{Addr, Address};
    use std::net::IpAddr;

    #[test]
    fn pods_have_names_addresses_and_interfaces() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut tables = Tables::default();
        for (address, device, kind) in [
            ("10.10.3.2", 5, AddressKind::POD),
            ("fd00::2", 5, AddressKind::POD),
            ("10.10.3.9", 6, AddressKind::POD),
            ("172.18.0.3", 0, AddressKind::HOST),
        ] {
            let gateway = Addr::UNSPECIFIED_V4;
            let address =
                (Addr::from(ip(address)), Address { gateway, device, mac: [0; 6], kind, flags: 0 });
            tables.addresses.extend([address]);
        }
        let pod = |name: &str, addresses: &[&str]| PodEntry {
            name: name.into(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        };
        let own = NodeEntry { name: "n1".into(), own: true, addresses: vec![], blocks: vec![] };
        let pods = vec![pod("ns/web", &["10.10.3.2", "fd00::2"]), pod("ns/new", &[])];
        let roster = Roster { nodes: vec![own], pods };
        let rows = build(&tables, &[(5, "veth5".to_owned())].into(), &roster);
        assert_eq!(
            render(&rows),
            "WORKLOAD  NODE  NETWORKS                  INTERFACE\n\
             ns/new    n1    -                         -\n\
             ns/web    n1    10.10.3.2/32,fd00::2/128  veth5\n\
             -         n1    10.10.3.9/32              #6\n"
        );
    }
}

//! Where addresses live.

use super::table::{mac, table};
use crate::{
    datapath::{Error, Reader, device_names},
    plan::Tables,
};
use datapath_common::{Addr, Address, AddressKind, LpmKey, RouteKind};
use ipnet::IpNet;
use serde::Serialize;
use std::{collections::HashMap, net::IpAddr};

/// An address or a range.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteRow {
    destination: IpNet,
    /// `pod`, `host`, `remote`, `tunnel`, `local`, `node`, `service` or `client`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    /// Node ports are served here.
    node_port: bool,
}

/// All addresses and ranges.
pub(super) fn read(reader: &Reader) -> Result<Vec<RouteRow>, Error> {
    Ok(build(&reader.tables()?, &device_names()?))
}

fn build(tables: &Tables, devices: &HashMap<u32, String>) -> Vec<RouteRow> {
    let name = |index: u32| {
        let known = devices.get(&index).cloned();
        (index != 0).then(|| known.unwrap_or_else(|| format!("#{index}")))
    };
    let known = |addr: Addr| (!addr.is_unspecified()).then(|| addr.ip());
    let mut rows = Vec::new();
    for (addr, entry) in &tables.addresses {
        rows.push(RouteRow {
            destination: addr.ip().into(),
            kind: if entry.kind == AddressKind::POD { "pod" } else { "host" },
            via: known(entry.gateway),
            device: name(entry.device),
            mtu: None,
            mac: (entry.mac != [0; 6]).then(|| mac(entry.mac)),
            node_port: entry.flags & Address::NODE_PORT != 0,
        });
    }
    for (key, route) in &tables.routes {
        rows.extend(prefix(key).map(|destination| RouteRow {
            destination,
            kind: kind(route.kind),
            via: known(route.next_hop),
            device: name(route.device),
            mtu: (route.mtu != 0).then_some(route.mtu),
            mac: None,
            node_port: false,
        }));
    }
    for key in &tables.local_clients {
        rows.extend(prefix(key).map(|destination| RouteRow {
            destination,
            kind: "client",
            via: None,
            device: None,
            mtu: None,
            mac: None,
            node_port: false,
        }));
    }
    rows.sort_by_key(|row| (row.kind, row.destination));
    rows
}

fn kind(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::REMOTE => "remote",
        RouteKind::LOCAL => "local",
        RouteKind::SERVICE => "service",
        RouteKind::TUNNEL => "tunnel",
        RouteKind::PEER => "node",
        _ => "unknown",
    }
}

/// The range as people write it; `None` for one that covers more than a family.
fn prefix(key: &LpmKey) -> Option<IpNet> {
    let mapped = if key.addr.is_v4() { 96 } else { 0 };
    let length = key.prefix_len.checked_sub(mapped)?;
    IpNet::new(key.addr.ip(), u8::try_from(length).ok()?).ok()
}

/// One line per address or range.
pub(super) fn render(rows: &[RouteRow]) -> String {
    let dash = || "-".to_owned();
    let line = |row: &RouteRow| {
        [
            row.destination.to_string(),
            if row.node_port { format!("{}, node ports", row.kind) } else { row.kind.to_owned() },
            row.via.map_or_else(dash, |via| via.to_string()),
            row.device.clone().unwrap_or_else(dash),
            row.mtu.map_or_else(dash, |mtu| mtu.to_string()),
            row.mac.clone().unwrap_or_else(dash),
        ]
    };
    table(["destination", "kind", "via", "device", "#mtu", "mac"], rows.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath_common::Route;
    use std::net::Ipv4Addr;

    #[test]
    fn addresses_and_ranges_stand_in_one_table() {
        let ip = |a, b| Addr::from(Ipv4Addr::new(10, 10, a, b));
        let mut tables = Tables::default();
        let kind = AddressKind::POD;
        let pod = Address { gateway: ip(3, 1), device: 5, mac: [2; 6], kind, flags: 0 };
        tables.addresses.insert(ip(3, 2), pod);
        let kind = RouteKind::REMOTE;
        let route = Route { next_hop: ip(9, 9), device: 2, mtu: 1500, kind, pad: 0 };
        tables.routes.insert(LpmKey::new(ip(1, 0), 24), route);
        tables.local_clients.insert(LpmKey::new(ip(0, 0), 16));
        let rows = build(&tables, &[(2, "eth0".to_owned())].into());
        assert_eq!(
            render(&rows),
            "DESTINATION   KIND    VIA        DEVICE   MTU  MAC\n\
             10.10.0.0/16  client  -          -          -  -\n\
             10.10.3.2/32  pod     10.10.3.1  #5         -  02:02:02:02:02:02\n\
             10.10.1.0/24  remote  10.10.9.9  eth0    1500  -\n"
        );
    }
}

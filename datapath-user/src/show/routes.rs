//! Where addresses live.

use super::table::{mac, table};
use crate::{
    datapath::{Error, Reader, device_names},
    plan::Tables,
    roster::Roster,
};
use datapath_common::{Addr, Address, AddressKind, LpmKey, Route, RouteKind, TunnelStats};
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
    /// The node that it belongs to, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
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
    /// What went through the tunnels of the node behind `via`, for all that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<TunnelRow>,
}

/// Traffic of a tunnel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TunnelRow {
    encapsulation: &'static str,
    sent_packets: u64,
    sent_bytes: u64,
    received_packets: u64,
    received_bytes: u64,
}

/// All addresses and ranges.
pub(super) fn read(reader: &Reader, roster: &Roster) -> Result<Vec<RouteRow>, Error> {
    let mut rows = build(&reader.tables()?, &device_names()?, &reader.tunnels()?);
    for row in &mut rows {
        let here = matches!(row.kind, "pod" | "host");
        let node = if here { roster.own() } else { roster.node_of(row.destination) };
        row.node = node.map(|node| node.name.clone());
    }
    Ok(rows)
}

fn build(
    tables: &Tables,
    devices: &HashMap<u32, String>,
    tunnels: &HashMap<Addr, TunnelStats>,
) -> Vec<RouteRow> {
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
            node: None,
            via: known(entry.gateway),
            device: name(entry.device),
            mtu: None,
            mac: (entry.mac != [0; 6]).then(|| mac(entry.mac)),
            node_port: entry.flags & Address::NODE_PORT != 0,
            tunnel: None,
        });
    }
    for (key, route) in &tables.routes {
        rows.extend(prefix(key).map(|destination| RouteRow {
            destination,
            kind: kind(route.kind),
            node: None,
            via: known(route.next_hop),
            device: name(route.device),
            mtu: (route.mtu != 0).then_some(route.mtu),
            mac: None,
            node_port: false,
            tunnel: tunnel(key, route, tunnels),
        }));
    }
    let clients = tables.local_clients.iter().map(|key| (key, "client"));
    let direct = tables.non_masquerade.iter().map(|key| (key, "not masqueraded"));
    for (key, kind) in clients.chain(direct) {
        rows.extend(prefix(key).map(|destination| RouteRow {
            destination,
            kind,
            node: None,
            via: None,
            device: None,
            mtu: None,
            mac: None,
            node_port: false,
            tunnel: None,
        }));
    }
    rows.sort_by_key(|row| (row.kind, row.destination));
    rows
}

/// How packets to the range are wrapped, if they are, and how many were.
fn tunnel(key: &LpmKey, route: &Route, tunnels: &HashMap<Addr, TunnelStats>) -> Option<TunnelRow> {
    if route.kind != RouteKind::TUNNEL {
        return None;
    }
    let TunnelStats { sent_packets, sent_bytes, received_packets, received_bytes } =
        tunnels.get(&route.next_hop).copied().unwrap_or_default();
    let encapsulation = match (key.addr.is_v4(), route.next_hop.is_v4()) {
        (true, true) => "4in4",
        (false, true) => "6in4",
        (true, false) => "4in6",
        (false, false) => "6in6",
    };
    Some(TunnelRow { encapsulation, sent_packets, sent_bytes, received_packets, received_bytes })
}

fn kind(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::REMOTE => "remote",
        RouteKind::LOCAL => "local",
        RouteKind::SERVICE => "service",
        RouteKind::TUNNEL => "tunnel",
        RouteKind::PEER => "node",
        RouteKind::FOREIGN => "foreign",
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
            row.node.clone().unwrap_or_else(dash),
            row.via.map_or_else(dash, |via| via.to_string()),
            row.device.clone().unwrap_or_else(dash),
            row.mtu.map_or_else(dash, |mtu| mtu.to_string()),
            row.mac.clone().unwrap_or_else(dash),
            row.tunnel.as_ref().map_or_else(dash, |tunnel| tunnel.encapsulation.to_owned()),
            row.tunnel.as_ref().map_or_else(dash, |tunnel| {
                format!("{} ({} B)", tunnel.sent_packets, tunnel.sent_bytes)
            }),
            row.tunnel.as_ref().map_or_else(dash, |tunnel| {
                format!("{} ({} B)", tunnel.received_packets, tunnel.received_bytes)
            }),
        ]
    };
    let columns = [
        "destination",
        "kind",
        "node",
        "via",
        "device",
        "#mtu",
        "mac",
        "tunnel",
        "#sent",
        "#received",
    ];
    table(columns, rows.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let tunnel = Route { mtu: 1480, kind: RouteKind::TUNNEL, ..route };
        tables.routes.insert(LpmKey::new(ip(2, 0), 24), tunnel);
        let stats = TunnelStats { sent_packets: 1, sent_bytes: 84, ..TunnelStats::default() };
        let mut rows =
            build(&tables, &[(2, "eth0".to_owned())].into(), &[(ip(9, 9), stats)].into());
        rows[2].node = Some("n1".to_owned());
        assert_eq!(
            render(&rows),
            "DESTINATION   KIND    NODE  VIA        DEVICE   MTU  MAC                TUNNEL      SENT  RECEIVED\n\
             10.10.0.0/16  client  -     -          -          -  -                  -              -         -\n\
             10.10.3.2/32  pod     -     10.10.3.1  #5         -  02:02:02:02:02:02  -              -         -\n\
             10.10.1.0/24  remote  n1    10.10.9.9  eth0    1500  -                  -              -         -\n\
             10.10.2.0/24  tunnel  -     10.10.9.9  eth0    1480  -                  4in4    1 (84 B)   0 (0 B)\n"
        );
    }
}

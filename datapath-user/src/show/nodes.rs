//! Other nodes: how their pods are reached, and whether they can be.

use super::table::{list, table};
use crate::{
    datapath::{Error, Reader},
    plan::{Tables, prefixes},
    roster::{NodeEntry, Roster},
};
use datapath_common::RouteKind;
use ipnet::IpNet;
use serde::Serialize;
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// A node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeRow {
    node: String,
    addresses: Vec<IpAddr>,
    blocks: Vec<IpNet>,
    /// How packets for its pods leave this node: `native`, `ipip`, `none` if that is not up to us;
    /// `local` for this node itself.
    mode: &'static str,
    /// Whether it answers; not asked of this node itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    reachable: Option<bool>,
    /// How long the answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<f64>,
}

/// All nodes, by name. Those that do not answer take [`PATIENCE`], all at the same time.
pub(super) fn read(reader: &Reader, roster: &Roster) -> Result<Vec<NodeRow>, Error> {
    let mut rows = build(&reader.tables()?, roster);
    for some in rows.chunks_mut(PROBES) {
        thread::scope(|scope| {
            for row in some.iter_mut().filter(|row| row.mode != LOCAL) {
                scope.spawn(|| row.probe());
            }
        });
    }
    Ok(rows)
}

fn build(tables: &Tables, roster: &Roster) -> Vec<NodeRow> {
    let row = |node: &NodeEntry| NodeRow {
        node: node.name.clone(),
        addresses: node.addresses.clone(),
        blocks: node.blocks.clone(),
        mode: if node.own { LOCAL } else { mode(tables, node) },
        reachable: None,
        milliseconds: None,
    };
    roster.nodes.iter().map(row).collect()
}

fn mode(tables: &Tables, node: &NodeEntry) -> &'static str {
    let routes = node.blocks.iter().copied().flat_map(prefixes);
    let kinds: Vec<_> =
        routes.filter_map(|key| tables.routes.get(&key)).map(|route| route.kind).collect();
    if kinds.contains(&RouteKind::TUNNEL) {
        "ipip"
    } else if kinds.contains(&RouteKind::REMOTE) {
        "native"
    } else {
        "none"
    }
}

impl NodeRow {
    /// Asks for a connection: it takes no privilege, and that the node refuses it is an answer too.
    fn probe(&mut self) {
        let Some(address) = self.addresses.first() else { return };
        let start = Instant::now();
        let answer = TcpStream::connect_timeout(&SocketAddr::new(*address, PORT), PATIENCE);
        let answers = match answer {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionRefused,
        };
        self.reachable = Some(answers);
        self.milliseconds = answers.then(|| start.elapsed().as_secs_f64() * 1000.0);
    }
}

/// One line per node.
pub(super) fn render(rows: &[NodeRow]) -> String {
    fn all<T: ToString>(items: &[T]) -> String {
        list(&items.iter().map(ToString::to_string).collect::<Vec<_>>(), items.len())
    }
    let line = |row: &NodeRow| {
        let reachable = match (row.reachable, row.milliseconds) {
            (Some(true), Some(milliseconds)) => format!("yes, {milliseconds:.1} ms"),
            (Some(_), _) => "no".to_owned(),
            (None, _) => "-".to_owned(),
        };
        [row.node.clone(), all(&row.addresses), all(&row.blocks), row.mode.to_owned(), reachable]
    };
    table(["node", "address", "blocks", "mode", "reachable"], rows.iter().map(line).collect())
}

/// The mode of this node itself.
const LOCAL: &str = "local";
/// Where agents, and kube-proxy, answer for their health.
const PORT: u16 = 10_256;
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many nodes are asked at a time.
const PROBES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use datapath_common::{Addr, LpmKey, Route};

    #[test]
    fn the_way_to_a_nodes_pods_is_its_mode() {
        let entry = |name: &str, own, last: u8| NodeEntry {
            name: name.into(),
            own,
            addresses: vec![[172, 18, 0, last].into()],
            blocks: vec![format!("10.10.{last}.0/24").parse().expect("a range")],
        };
        let nodes = vec![
            entry("n1", true, 1),
            entry("n2", false, 2),
            entry("n3", false, 3),
            entry("n4", false, 4),
        ];
        let mut tables = Tables::default();
        for (last, kind) in [(1, RouteKind::LOCAL), (2, RouteKind::REMOTE), (3, RouteKind::TUNNEL)]
        {
            let addr = Addr::from(std::net::Ipv4Addr::new(10, 10, last, 0));
            let route = Route { next_hop: addr, device: 2, mtu: 1500, kind, pad: 0 };
            tables.routes.insert(LpmKey::new(addr, 24), route);
        }
        let mut rows = build(&tables, &Roster { nodes, pods: Vec::new() });
        (rows[1].reachable, rows[1].milliseconds) = (Some(true), Some(0.34));
        rows[2].reachable = Some(false);
        assert_eq!(
            render(&rows),
            "NODE  ADDRESS     BLOCKS        MODE    REACHABLE\n\
             n1    172.18.0.1  10.10.1.0/24  local   -\n\
             n2    172.18.0.2  10.10.2.0/24  native  yes, 0.3 ms\n\
             n3    172.18.0.3  10.10.3.0/24  ipip    no\n\
             n4    172.18.0.4  10.10.4.0/24  none    -\n"
        );
    }
}

//! The tour of `cargo xtask run`: what the cluster is, that it works, and how.

mod tunnel;

pub(crate) use tunnel::pods;

use crate::{
    Lab, Node,
    cli::say,
    proto::{Proto, Verdict},
    proxy::{self, Kind},
    service::Service,
    space::{Space, request},
    suite::eventually,
    topology::{Family, Wiring},
};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{signal::ctrl_c, time::sleep};

/// Requests of each client and family.
const REQUESTS: u32 = 100;
/// How long the Services may take to be served everywhere.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests a second that each node's client makes while the live figures are shown.
const LIVE_RATE: u32 = 25;

/// Shows the cluster, sends requests from everywhere and checks what came of them.
pub fn show(lab: &Lab, kind: Option<Kind>, web: &Service) -> Result<()> {
    let Some(kind) = kind else { bail!("the tour needs a proxy on the nodes") };
    nodes(lab)?;
    for node in lab.nodes() {
        reachable(&node.space, web)?;
    }
    if kind.is_datapath() {
        services(lab)?;
    }
    requests(lab, web)?;
    if lab.topology().wiring == Wiring::Calico {
        tunnel::show(lab)?;
    }
    if kind.is_datapath() {
        translations(lab)?;
        no_rules(lab)?;
    }
    say("Every node reached a backend on every other node, and every Service answered.\n")
}

fn nodes(lab: &Lab) -> Result<()> {
    say(&format!("{:<22} {:<38} {}", "NODE", "ADDRESSES", "PODS"))?;
    for node in lab.nodes() {
        let [v4, v6] = node.spec.address().both();
        let addresses = format!("{v4} {v6}");
        let ranges = node.spec.pod_ranges().join(" ");
        say(&format!("{:<22} {addresses:<38} {ranges}", node.spec.name))?;
    }
    say("")
}

/// Waits until the Service is served where `space` is.
fn reachable(space: &Space, web: &Service) -> Result<()> {
    for family in Family::ALL {
        let to = web.at(family, 80)?;
        eventually(PATIENCE, || {
            for verdict in [space.http(to, "/hostname")?, space.udp(to, "hostname")?] {
                ensure!(verdict.answer().is_some(), "{} to {to}: {verdict}", space.name());
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What the agent of the first worker knows: all nodes know the same.
fn services(lab: &Lab) -> Result<()> {
    let home = home(lab)?;
    say(&format!("Services, as the agent of {} put them into the kernel:", home.spec.name))?;
    say(&printed(home, &["service", "list"])?)
}

/// The first worker.
pub(crate) fn home(lab: &Lab) -> Result<&Node> {
    lab.nodes().get(1).context("no workers")
}

/// What a command of ours prints on a node.
pub(crate) fn printed(node: &Node, arguments: &[&str]) -> Result<String> {
    let output = proxy::datapath(node, arguments)?.output()?;
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "datapath {}: {problem}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Requests from a pod on every node and from every node itself.
fn requests(lab: &Lab, web: &Service) -> Result<()> {
    let mut load = BTreeMap::<String, u32>::new();
    for family in Family::ALL {
        let to = web.at(family, 80)?;
        say(&format!("{REQUESTS} requests each to http://{to}/, by the node that answered:"))?;
        let nodes = &lab.topology().nodes;
        let columns: Vec<_> = nodes.iter().map(|spec| format!("{:>14}", spec.short())).collect();
        say(&format!("{:<28}{}", "FROM", columns.concat()))?;
        for node in lab.nodes() {
            for client in [node.spec.name.to_owned(), format!("web-{}-1", node.spec.short())] {
                let space = lab.space(&client)?;
                let counts = space.spread(&request(Proto::Tcp, to, "/hostname"), REQUESTS)?;
                let row = by_node(lab, &counts, &mut load)?;
                check_row(&client, node, &row)?;
                let cells: Vec<_> = nodes
                    .iter()
                    .map(|spec| format!("{:>14}", row.get(spec.name).unwrap_or(&0)))
                    .collect();
                say(&format!("{client:<28}{}", cells.concat()))?;
            }
        }
        say("")?;
    }
    spread(&load)?;
    datagrams(lab, web)
}

/// Sorts answers by the node of the pod that gave them; adds them to the load of the pods.
fn by_node(
    lab: &Lab,
    counts: &BTreeMap<Verdict, u32>,
    load: &mut BTreeMap<String, u32>,
) -> Result<BTreeMap<&'static str, u32>> {
    let mut row = BTreeMap::new();
    for (verdict, count) in counts {
        let Some(name) = verdict.answer() else { bail!("a request failed: {verdict}") };
        *row.entry(lab.pod(name)?.spec.node.name).or_default() += count;
        *load.entry(name.to_owned()).or_default() += count;
    }
    Ok(row)
}

fn check_row(client: &str, node: &Node, row: &BTreeMap<&'static str, u32>) -> Result<()> {
    let reached: BTreeSet<_> = row.keys().copied().collect();
    for other in node.topology.nodes.iter().filter(|other| other.name != node.spec.name) {
        ensure!(reached.contains(other.name), "{client} never reached a pod on {}", other.name);
    }
    Ok(())
}

/// The share of each pod.
fn spread(load: &BTreeMap<String, u32>) -> Result<()> {
    let total: u32 = load.values().sum();
    say(&format!("How {total} requests spread over {} pods:", load.len()))?;
    for (pod, count) in load {
        let bar = "#".repeat((count * 200 / total.max(1)) as usize);
        say(&format!("{pod:<24} {count:>5}  {bar}"))?;
    }
    say("")
}

/// UDP works as well, from everywhere.
fn datagrams(lab: &Lab, web: &Service) -> Result<()> {
    for node in lab.nodes() {
        for client in [node.spec.name.to_owned(), format!("web-{}-1", node.spec.short())] {
            for family in Family::ALL {
                let to = web.at(family, 80)?;
                let space = lab.space(&client)?;
                let verdict = space.udp(to, "hostname")?;
                ensure!(verdict.answer().is_some(), "UDP from {client} to {to}: {verdict}");
            }
        }
    }
    say("UDP through the same ClusterIPs: answered everywhere.\n")
}

/// Where the translations took place, by the agents' own figures.
fn translations(lab: &Lab) -> Result<()> {
    say("Translated so far, at the socket (no packet rewritten) and packet by packet (tc):")?;
    say(&format!("{:<22} {:>10} {:>10}", "NODE", "SOCKETS", "TC FLOWS"))?;
    let mut all = 0;
    for node in lab.nodes() {
        let (mut sockets, mut flows) = (0, 0);
        for Figures { sockets: s, flows: f, .. } in figures(node)?.into_values() {
            sockets += s;
            flows += f;
        }
        all += sockets + flows;
        say(&format!("{:<22} {sockets:>10} {flows:>10}", node.spec.name))?;
    }
    ensure!(all > 0, "the agents counted no translation");
    say("")
}

/// Neither nftables nor the older iptables have anything on any node.
fn no_rules(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let rules = node.space.output("nft", &["list", "ruleset"])?;
        ensure!(rules.trim().is_empty(), "{} has nftables rules: {rules}", node.spec.name);
        for file in ["ip_tables_names", "ip6_tables_names"] {
            let command = format!("cat /proc/net/{file} 2>/dev/null || true");
            let tables = node.space.output("sh", &["-c", &command])?;
            ensure!(tables.trim().is_empty(), "{} has iptables rules: {tables}", node.spec.name);
        }
    }
    say("No kube-proxy runs, and no node has a single iptables or nftables rule.\n")
}

/// What an agent counted for a Service.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    sockets: u64,
    flows: u64,
    backends: u64,
}

fn figures(node: &Node) -> Result<BTreeMap<String, Figures>> {
    let output = printed(node, &["service", "list", "-o", "json"])?;
    let ports: Vec<Value> = serde_json::from_str(&output).context("service list")?;
    let text = |port: &Value, key: &str| port[key].as_str().unwrap_or_default().to_owned();
    Ok(ports
        .iter()
        .map(|port| {
            let name = format!(
                "{}/{}:{}/{}",
                text(port, "namespace"),
                text(port, "name"),
                text(port, "portName"),
                text(port, "protocol")
            );
            let figures = Figures {
                sockets: port["sockets"].as_u64().unwrap_or_default(),
                flows: port["flows"].as_u64().unwrap_or_default(),
                backends: port["backends"].as_array().map_or(0, Vec::len) as u64,
            };
            (name, figures)
        })
        .collect())
}

/// Shows connections and rates of every Service until Ctrl-C; a small load keeps them moving.
pub fn live(lab: &Lab, kind: Option<Kind>, web: &Service) -> Result<()> {
    if !kind.is_some_and(Kind::is_datapath) {
        return Ok(());
    }
    let names = lab.nodes().iter().map(|node| format!("web-{}-1", node.spec.short()));
    let clients: Vec<_> = names.map(|name| lab.space(&name)).collect::<Result<_>>()?;
    for (client, family) in clients.iter().zip(Family::ALL.into_iter().cycle()) {
        start_load(client, web, family)?;
    }
    say(&format!(
        "A pod on every node now makes {LIVE_RATE} requests a second. Ctrl-C ends the cluster.\n\
         In another terminal: cargo xtask lab exec web-{}-1 -- curl -s http://{}/\n",
        home(lab)?.spec.short(),
        web.at(Family::V4, 80)?
    ))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut before = sum(lab)?;
    loop {
        let ended = runtime.block_on(async {
            tokio::select! {
                _ = ctrl_c() => true,
                () = sleep(Duration::from_secs(1)) => false,
            }
        });
        if ended {
            return Ok(());
        }
        let now = sum(lab)?;
        say(&format!(
            "{:<36} {:>8} {:>12} {:>8} {:>10}",
            "SERVICE", "BACKENDS", "CONNECTIONS", "RATE/S", "BY SOCKET"
        ))?;
        for (name, figures) in &now {
            let total = figures.sockets + figures.flows;
            let old = before.get(name).copied().unwrap_or_default();
            let rate = total.saturating_sub(old.sockets + old.flows);
            let share = (figures.sockets * 100).checked_div(total).unwrap_or_default();
            say(&format!("{name:<36} {:>8} {total:>12} {rate:>8} {share:>9}%", figures.backends))?;
        }
        say("")?;
        before = now;
    }
}

fn start_load(client: &Space, web: &Service, family: Family) -> Result<()> {
    let ask = request(Proto::Tcp, web.at(family, 80)?, "/hostname");
    client.load_start(&ask, LIVE_RATE, 1).map(drop)
}

/// The figures of all nodes together.
fn sum(lab: &Lab) -> Result<BTreeMap<String, Figures>> {
    let mut all = BTreeMap::<String, Figures>::new();
    for node in lab.nodes() {
        for (name, figures) in figures(node)? {
            let entry = all.entry(name).or_default();
            entry.sockets += figures.sockets;
            entry.flows += figures.flows;
            entry.backends = entry.backends.max(figures.backends);
        }
    }
    Ok(all)
}

//! Where the pods' network is ours too: real CNI plugins connect pods as our configuration says.

use crate::{
    masquerade,
    world::{Way, World, all},
};
use anyhow::{Context as _, Result, anyhow, ensure};
use lab::{
    Node, Pod,
    manifest::PodSpec,
    proto::Ask,
    proxy,
    proxy::Kind,
    suite::{Cases, Suite, eventually},
    topology::Family,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

/// How long a node may take to follow.
const PATIENCE: Duration = Duration::from_mins(1);
/// Pods that come and go on each node, with the socket hooks and without.
const PODS: [u32; 2] = [50, 10];
/// Pods of these that come to one node while the others are at rest. The nodes of the lab share one kernel
/// and its lock of all devices; those of a cluster do not.
const AT_REST: u32 = 10;
/// What a busy machine may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    suite.case("cni::pods_are_connected_as_in_the_reference", || connected(world));
    suite.case("cni::routing_auto_goes_straight", || straight(world));
    suite.case("cni::every_pod_reaches_every_pod", || world.every_pod_reaches_every_pod());
    masquerade::run_alone(suite, world);
    suite.case("cni::the_configuration_follows_the_uplink", || follows(world));
    suite.case("cni::pods_come_and_go_without_a_trace", || come_and_go(world));
}

/// After the cleanup no node may get pods any more.
pub(crate) fn clean(suite: &mut Suite, world: &World) {
    suite.case("cni::cleanup_takes_the_configuration_away", || {
        all(world.lab.nodes().iter().map(|node| {
            let left = fs::read_dir(node.cni_conf_dir())?.count();
            ensure!(left == 0, "{} still has {left} files", node.spec.name);
            let routes = node.space.output("ip", &["route", "show", "proto", "218"])?;
            ensure!(routes.is_empty(), "{} still has {routes}", node.spec.name);
            Ok(())
        }))
    });
}

/// The pods that the plugins connected.
fn pods(world: &World) -> Vec<std::sync::Arc<Pod>> {
    world.lab.pods().into_iter().filter(|pod| pod.device.is_some()).collect()
}

fn connected(world: &World) -> Result<()> {
    all(pods(world).iter().map(|pod| {
        let node = world.lab.node(pod.spec.node.name)?;
        let device = pod.device.as_deref().context("no device")?;
        let (gateway, address) = (pod.spec.node.pod(1), pod.address);
        let [range4, _] = pod.spec.node.pod_ranges();
        for (place, arguments, expected) in [
            (
                &node.space,
                vec!["-4", "route", "show", "dev", device],
                vec![format!("{} scope host", address.v4)],
            ),
            (&node.space, vec!["-6", "route", "show", "dev", device], vec![address.v6.to_string()]),
            (
                &node.space,
                vec!["addr", "show", "dev", device],
                vec![
                    format!("inet {}/32", gateway.v4),
                    format!("inet6 {}/128", gateway.v6),
                    "mtu 1500".to_owned(),
                ],
            ),
            (
                &pod.space,
                vec!["-4", "route", "show", "dev", "eth0"],
                vec![
                    format!("default via {}", gateway.v4),
                    format!("{range4} via {} src {}", gateway.v4, address.v4),
                    format!("{} scope link src {}", gateway.v4, address.v4),
                ],
            ),
            (
                &pod.space,
                vec!["-6", "route", "show", "dev", "eth0"],
                vec![format!("default via {}", gateway.v6)],
            ),
            (
                &pod.space,
                vec!["addr", "show", "dev", "eth0"],
                vec![
                    format!("inet {}/24", address.v4),
                    format!("inet6 {}/64", address.v6),
                    "mtu 1500".to_owned(),
                ],
            ),
        ] {
            let found = place.output("ip", &arguments)?;
            for part in expected {
                let name = &pod.spec.name;
                ensure!(found.contains(&part), "{name}: ip {arguments:?} lacks {part}:\n{found}");
            }
        }
        Ok(())
    }))
}

/// All nodes share a network, so packets go as they are; commands call nodes and pods by their names.
fn straight(world: &World) -> Result<()> {
    let home = world.lab.node(world.home.name)?;
    for node in world.lab.nodes().iter().filter(|node| node.spec.name != world.home.name) {
        let via = node.spec.address().both();
        for (range, via) in node.spec.pod_ranges().iter().zip(via) {
            let family = if via.is_ipv4() { "-4" } else { "-6" };
            eventually(PATIENCE, || {
                let routes = listed(home, &["route", "list"])?;
                let row = routes
                    .iter()
                    .find(|row| row["destination"] == **range && row["kind"] == "remote");
                let row = row.with_context(|| format!("no route to {range}"))?;
                ensure!(row["node"] == node.spec.name, "{row}");
                ensure!(row["via"] == via.to_string() && row["device"] == "eth0", "{row}");
                let kernel = home.space.output("ip", &[family, "route", "show", range])?;
                ensure!(kernel.contains(&format!("via {via} dev eth0 proto 218")), "{kernel}");
                Ok(())
            })?;
        }
    }
    eventually(PATIENCE, || {
        let nodes = listed(home, &["node", "list"])?;
        ensure!(nodes.len() == world.lab.nodes().len(), "{nodes:?}");
        for row in &nodes {
            let own = row["node"] == world.home.name;
            ensure!(row["mode"] == if own { "local" } else { "native" }, "{row}");
            ensure!(own || row["reachable"] == true, "{row}");
        }
        Ok(())
    })?;
    eventually(PATIENCE, || {
        let rows = listed(home, &["workload", "list"])?;
        let here = pods(world);
        let here: Vec<_> = here.iter().filter(|pod| pod.spec.node.name == home.spec.name).collect();
        ensure!(rows.len() == here.len(), "{rows:?}");
        for pod in here {
            let name = format!("default/{}", pod.spec.name);
            let row = rows.iter().find(|row| row["workload"] == name);
            let row = row.with_context(|| format!("no workload {name}"))?;
            ensure!(row["interface"].as_str() == pod.device.as_deref(), "{row}");
            ensure!(row["networks"][0] == format!("{}/32", pod.address.v4), "{row}");
        }
        Ok(())
    })
}

/// What a listing command of ours prints for programs.
fn listed(node: &Node, arguments: &[&str]) -> Result<Vec<Value>> {
    let output = proxy::datapath(node, arguments)?.args(["-o", "json"]).output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// New pods get what fits the uplink.
fn follows(world: &World) -> Result<()> {
    let node = world.lab.node(world.away.name)?;
    for mtu in [1400, 1500] {
        node.space.ip(&format!("link set eth0 mtu {mtu}\n"))?;
        eventually(PATIENCE, || {
            let text = fs::read(node.cni_conf_dir().join("10-datapath.conflist"))?;
            let list: Value = serde_json::from_slice(&text)?;
            let plugin = &list["plugins"][0];
            ensure!(plugin["mtu"] == mtu, "{plugin}");
            Ok(())
        })?;
    }
    Ok(())
}

/// What one pod of many saw.
struct Seen {
    /// Its interface had our programs when the plugins were done.
    attached: bool,
    /// Segments that it sent twice.
    again: u32,
}

/// Many pods, one after another on each node; each asks a Service before anything else.
fn come_and_go(world: &World) -> Result<()> {
    let Kind::Datapath { socket_lb, .. } = world.kind else { return Ok(()) };
    let count = PODS[usize::from(!socket_lb)];
    let before = traces_of_all(world)?;
    let delays_before = delays(world)?;
    let start = Instant::now();
    let home = world.lab.node(world.home.name)?;
    let mut seen =
        (0..AT_REST).map(|number| one_pod(world, home, number)).collect::<Result<Vec<_>>>()?;
    let delays_at_rest = delays(world)?;
    let together: Vec<Seen> = thread::scope(|scope| {
        let first = |node: &Node| if node.spec.name == home.spec.name { AT_REST } else { 0 };
        let each = |node| {
            let numbers = first(node)..count;
            scope.spawn(move || numbers.map(|number| one_pod(world, node, number)).collect())
        };
        let threads: Vec<_> = world.lab.nodes().iter().map(each).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Vec<Seen>>>| {
            thread.join().map_err(|_panic| anyhow!("panicked"))?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect();
    seen.extend(together);
    let took = start.elapsed().as_secs_f64();
    let together = delays(world)?.since(&delays_at_rest);
    let at_rest = delays_at_rest.since(&delays_before);
    let early = seen.iter().filter(|pod| pod.attached).count();
    let again = seen.iter().filter(|pod| pod.again > 0).count();
    println!(
        "{} pods came and went in {took:.1} s; {early} had their programs when the plugins were done, \
         {again} sent something twice; from the kernel's word to the programs: p50 {}, p95 {} on all \
         nodes at once; p50 {}, p95 {} on one alone",
        seen.len(),
        together.percentile(50),
        together.percentile(95),
        at_rest.percentile(50),
        at_rest.percentile(95),
    );
    // A busy machine may be late now and then, not as a rule.
    ensure!(early * 2 > seen.len(), "most interfaces got their programs late: {early}");
    ensure!(again * 2 < seen.len(), "most pods had to ask twice: {again}");
    eventually(PATIENCE, || {
        let after = traces_of_all(world)?;
        all(before.iter().zip(&after).map(|((place, before), (_, after))| {
            let gone: Vec<_> = before.difference(after).collect();
            let new: Vec<_> = after.difference(before).collect();
            ensure!(gone.is_empty() && new.is_empty(), "{place}: gone {gone:?}, new {new:?}");
            Ok(())
        }))
    })
}

fn one_pod(world: &World, node: &Node, number: u32) -> Result<Seen> {
    let name = format!("brief-{}-{number}", node.spec.short());
    let pod = world.lab.run_pod(PodSpec::new(&name, node.spec, "brief").serving(&[]))?;
    let device = pod.device.as_deref().context("no device")?;
    let attached = fs::read_dir(node.pins())?
        .flatten()
        .any(|version| version.path().join("links").join(format!("from_pod-{device}")).exists());
    let mut checks = Vec::new();
    for family in Family::ALL {
        let ask = Way::TCP.ask(world.web.at(family, 80)?, "hostname");
        let ask = Ask { timeout_ms: ANSWER.as_millis() as u64, ..ask };
        let verdict = pod.space.ask(&ask)?;
        let ok = verdict.answer().is_some();
        checks.push(ok.then_some(()).with_context(|| format!("{name}, {family}: {verdict}")));
    }
    let again = sent_again(&pod)?;
    world.lab.stop_pod(&pod)?;
    all(checks)?;
    Ok(Seen { attached, again })
}

/// TCP segments that were sent again from the pod's namespace.
fn sent_again(pod: &Pod) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{}/net/snmp", pod.space.pid()))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "RetransSegs").context("no RetransSegs")?;
    Ok(value.parse()?)
}

/// Whatever pods could leave behind, by node.
fn traces_of_all(world: &World) -> Result<Vec<(&'static str, BTreeSet<String>)>> {
    world.lab.nodes().iter().map(|node| Ok((node.spec.name, traces(node)?))).collect()
}

fn traces(node: &Node) -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for arguments in [
        ["-o", "link", "show"].as_slice(),
        &["-o", "addr", "show"],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
    ] {
        let text = node.space.output("ip", arguments)?;
        traces.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    let mut folders = vec![node.cni_data_dir(), node.pins()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder)?.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The plugin's own: where it looks next, and its lock.
            if path.is_dir() {
                folders.push(path);
            } else if name != "lock" && !name.starts_with("last_reserved_ip") {
                traces.insert(path.display().to_string());
            }
        }
    }
    for map in listed(node, &["map", "list"])? {
        // Those that the agent fills; the others forget by themselves.
        if matches!(
            map["name"].as_str(),
            Some(
                "ADDRESSES"
                    | "ROUTES"
                    | "LOCAL_CLIENTS"
                    | "LOCAL_DEVICES"
                    | "FRONTENDS"
                    | "BACKENDS"
                    | "SLOTS"
                    | "SERVICES"
            )
        ) {
            traces.insert(format!("{}: {} entries", map["name"], map["entries"]));
        }
    }
    Ok(traces)
}

/// How long it took from the kernel's word of a pod's interface to its programs: numbers of pods by
/// upper bounds.
#[derive(Default)]
struct Delays(BTreeMap<Duration, u32>);

/// As all agents measured it since they started.
fn delays(world: &World) -> Result<Delays> {
    let mut delays = Delays::default();
    for node in world.lab.nodes() {
        let page = node.space.output("curl", &["-sS", "http://127.0.0.1:10249/metrics"])?;
        let name = "datapath_pod_attach_duration_seconds_bucket{le=\"";
        for bucket in page.lines().filter_map(|line| line.strip_prefix(name)) {
            let (bound, count) = bucket.split_once("\"} ").context("no count")?;
            // The last one is infinite.
            let bound = Duration::try_from_secs_f64(bound.parse()?).unwrap_or(Duration::MAX);
            *delays.0.entry(bound).or_default() += count.parse::<u32>()?;
        }
    }
    Ok(delays)
}

impl Delays {
    /// Without those that were there before.
    fn since(mut self, before: &Self) -> Self {
        for (bound, count) in &mut self.0 {
            *count -= before.0.get(bound).copied().unwrap_or_default();
        }
        self
    }

    /// The bound that so many of a hundred pods stayed below.
    fn percentile(&self, percent: u32) -> String {
        let total = self.0.values().max().copied().unwrap_or_default();
        let mut bounds = self.0.iter().filter(|(_, count)| **count * 100 >= percent * total);
        match bounds.next() {
            Some((bound, _)) if *bound < Duration::MAX => format!("under {bound:?}"),
            _ => "beyond measure".to_owned(),
        }
    }
}

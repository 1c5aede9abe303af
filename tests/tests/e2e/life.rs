//! Changes: backends that come and go, the agent's death, the API server's absence, the end.

use crate::world::{CLIENT, PATIENCE, Way, World, all, answer, expect_answer};
use anyhow::{Context as _, Result, anyhow, ensure};
use aya::programs::{SchedClassifier, tc::TcAttachType};
use lab::{
    Node,
    manifest::PodSpec,
    proto::Verdict,
    service::{Service, web},
    suite::{Cases, Suite, eventually},
    topology::Family,
};
use nix::sched::{CloneFlags, setns};
use std::{
    fs,
    fs::File,
    thread,
    time::{Duration, Instant},
};

/// How long a UDP client may have to ask again after its backend has gone from the API.
const MOVE: Duration = Duration::from_secs(30);
/// How often the agent is killed under load.
const KILLS: u32 = 10;
/// Requests a second meanwhile.
const RATE: u32 = 1000;

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    suite.case("endpoints::readiness", || readiness(world));
    suite.case("endpoints::terminating_as_last_resort", || terminating(world));
    suite.case("endpoints::udp_moves_to_a_live_backend", || udp_moves(world));
    suite.case("endpoints::connections_stay", || connections_stay(world));
    suite.case("agent::killed_under_load", || killed_under_load(world));
    suite.case("agent::changes_while_it_is_down", || changes_while_down(world));
    suite.case("agent::api_server_away", || api_server_away(world));
    if world.kind.is_datapath() {
        suite.case("node::has_no_netfilter_rules", || no_rules(world));
    }
}

/// Ends the proxies; nothing of ours may remain.
pub(crate) fn clean(suite: &mut Suite, world: &World) -> Result<()> {
    world.lab.stop_proxies()?;
    suite.case("agent::cleanup_leaves_nothing", || {
        all(world.lab.nodes().iter().map(|node| clean_node(world, node)))
    });
    Ok(())
}

/// Makes a Service and pods for it, which [`remove`] takes away.
fn with_pods(world: &World, app: &str, nodes: &[usize]) -> Result<Service> {
    let all = &world.lab.topology().nodes;
    let specs = nodes.iter().enumerate().filter_map(|(index, node)| {
        Some(PodSpec::new(&format!("{app}-{index}"), all.get(*node)?, app))
    });
    world.lab.create_pods(specs.collect())?;
    let service = world.lab.create_service(app, &web(app))?;
    world.settle_service(&service)?;
    Ok(service)
}

fn remove(world: &World, app: &str) -> Result<()> {
    world.lab.delete_service(app)?;
    for pod in world.lab.pods().iter().filter(|pod| pod.spec.name.starts_with(app)) {
        world.lab.delete_pod(&pod.spec.name)?;
    }
    Ok(())
}

/// A pod that is not ready gets nothing, and everything again when it is.
fn readiness(world: &World) -> Result<()> {
    let service = with_pods(world, "ready", &[1, 2])?;
    let space = world.space(CLIENT)?;
    let only = |backends: &[&str]| {
        eventually(PATIENCE, || {
            for family in Family::ALL {
                for way in Way::ALL {
                    let counts = space.spread(&way.ask(service.at(family, 80)?, "hostname"), 20)?;
                    let names: Vec<_> = counts.keys().filter_map(Verdict::answer).collect();
                    ensure!(names == backends, "{way} {family}: {counts:?}, not {backends:?}");
                }
            }
            Ok(())
        })
    };
    only(&["ready-0", "ready-1"])?;
    world.lab.set_ready("ready-1", false)?;
    only(&["ready-0"])?;
    world.lab.set_ready("ready-1", true)?;
    world.lab.set_ready("ready-0", false)?;
    only(&["ready-1"])?;
    remove(world, "ready")
}

/// While all that is left is terminating and still serves, it is used.
fn terminating(world: &World) -> Result<()> {
    let service = with_pods(world, "ending", &[2, 3])?;
    let space = world.space(CLIENT)?;
    world.lab.terminate_pod("ending-0")?;
    let ask = Way::TCP.ask(service.at(Family::V4, 80)?, "hostname");
    eventually(PATIENCE, || {
        let counts = space.spread(&ask, 20)?;
        ensure!(counts.len() == 1, "a terminating pod still gets its share: {counts:?}");
        expect_answer(&space, &ask, "ending-1")
    })?;
    world.lab.terminate_pod("ending-1")?;
    // Whatever the last change does, there must be an answer at any time.
    for _ in 0..50 {
        answer(&space, &ask)?;
        thread::sleep(Duration::from_millis(10));
    }
    remove(world, "ending")
}

/// A client that keeps its socket is served by another backend when its own has gone.
fn udp_moves(world: &World) -> Result<()> {
    let mut checks = Vec::new();
    for client in [CLIENT, world.home.name] {
        for family in Family::ALL {
            for way in [Way::UDP, Way::CONNECTED_UDP] {
                let check = udp_moves_once(world, client, family, way);
                checks.push(check.with_context(|| format!("{way} {family} from {client}")));
                remove(world, "cycle").ok();
            }
        }
    }
    all(checks)
}

fn udp_moves_once(world: &World, client: &str, family: Family, way: Way) -> Result<()> {
    let service = with_pods(world, "cycle", &[1, 2])?;
    let space = world.space(client)?;
    let ask = way.ask(service.at(family, 80)?, "hostname");
    let socket = space.open(&ask)?.map_err(|verdict| anyhow!("{verdict}"))?;
    let first = socket.ask("hostname")?.answer().context("no answer at first")?.to_owned();
    world.lab.delete_pod(&first)?;
    let second = eventually(MOVE, || {
        let verdict = socket.ask_within("hostname", Duration::from_millis(200))?;
        Ok(verdict.answer().with_context(|| format!("after {first} went: {verdict}"))?.to_owned())
    })?;
    ensure!(second != first, "{first} answers although it is gone");
    Ok(())
}

/// A connection outlives its backend's place in the Service.
fn connections_stay(world: &World) -> Result<()> {
    let service = with_pods(world, "stay", &[2])?;
    let mut sockets = Vec::new();
    for client in [CLIENT, world.home.name] {
        for family in Family::ALL {
            let ask = Way::TCP.ask(service.at(family, 80)?, "hostname");
            let socket =
                world.space(client)?.open(&ask)?.map_err(|verdict| anyhow!("{verdict}"))?;
            sockets.push(socket);
        }
    }
    world.lab.set_ready("stay-0", false)?;
    let space = world.space(CLIENT)?;
    let ask = Way::TCP.ask(service.at(Family::V4, 80)?, "hostname");
    eventually(PATIENCE, || {
        ensure!(space.ask(&ask)?.is_rejection(), "new connections still go there");
        Ok(())
    })?;
    for socket in &sockets {
        let verdict = socket.ask("/hostname")?;
        ensure!(verdict.answer() == Some("stay-0"), "an open connection: {verdict}");
    }
    remove(world, "stay")
}

/// 1,000 requests a second and one long transfer while the agent of the client's node is killed
/// and started again ten times: not one request fails.
fn killed_under_load(world: &World) -> Result<()> {
    let node = world.lab.node(world.home.name)?;
    let space = world.space(CLIENT)?;
    let load =
        space.load_start(&Way::TCP.ask(world.web.at(Family::V4, 80)?, "hostname"), RATE, 8)?;
    let other = world.targets.iter().find(|target| target.place == "other_node");
    let to = other.context("no target on another node")?.service.at(Family::V4, 80)?;
    let reader = world.space(CLIENT)?;
    let transfer = thread::spawn(move || reader.transfer(to, 64 << 20, Duration::from_secs(5)));
    let start = Instant::now();
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        kills.push(start.elapsed().as_millis());
        world.lab.take_proxy(node)?.kill()?;
        thread::sleep(Duration::from_millis(100));
        world.lab.start_proxy(node, world.kind)?;
        world.lab.wait_proxy(node)?;
        thread::sleep(Duration::from_millis(200));
    }
    let report = space.load_stop(load)?;
    let verdict = transfer.join().map_err(|_panic| anyhow!("the transfer panicked"))??;
    ensure!(verdict.answer().is_some(), "the transfer: {verdict}");
    ensure!(report.failures.is_empty(), "{report:?}, kills at {kills:?} ms");
    // A busy machine may slow the clients down, but a standstill is no success.
    let expected = u64::from(RATE) * report.millis / 1000;
    ensure!(report.answered > expected / 4, "the machine is too slow for the load: {report:?}");
    Ok(())
}

/// What happened while the agent was dead is known when it is back.
fn changes_while_down(world: &World) -> Result<()> {
    let service = with_pods(world, "while", &[2, 3])?;
    let doomed = world.lab.create_service("doomed", &web("web"))?;
    world.settle_service(&doomed)?;
    let node = world.lab.node(world.home.name)?;
    world.lab.take_proxy(node)?.kill()?;
    world.lab.delete_service("doomed")?;
    world.lab.delete_pod("while-0")?;
    let fresh = world.lab.create_service("fresh", &web("web"))?;
    world.lab.start_proxy(node, world.kind)?;
    world.lab.wait_proxy(node)?;
    world.settle_service(&fresh)?;
    let space = world.space(CLIENT)?;
    for family in Family::ALL {
        for way in Way::ALL {
            let ask = way.ask(service.at(family, 80)?, "hostname");
            let counts = eventually(PATIENCE, || {
                let counts = space.spread(&ask, 10)?;
                ensure!(counts.len() == 1, "{counts:?}");
                Ok(counts)
            })?;
            let only = Verdict::Answer("while-1".to_owned());
            ensure!(counts.contains_key(&only), "{way} {family}: {counts:?}");
        }
    }
    eventually(PATIENCE, || {
        let verdict = space.ask(&Way::TCP.ask(doomed.at(Family::V4, 80)?, "hostname"))?;
        ensure!(verdict.answer().is_none(), "the deleted Service answers");
        Ok(())
    })?;
    world.lab.delete_service("fresh")?;
    remove(world, "while")
}

/// Without the API server everything goes on, even for an agent that starts meanwhile.
fn api_server_away(world: &World) -> Result<()> {
    let node = world.lab.node(world.home.name)?;
    let space = world.space(CLIENT)?;
    let ask = Way::TCP.ask(world.web.at(Family::V4, 80)?, "hostname");
    world.lab.stop_api_server()?;
    let away = answer(&space, &ask).and_then(|_| {
        if world.kind.is_datapath() {
            world.lab.take_proxy(node)?.kill()?;
            world.lab.start_proxy(node, world.kind)?;
            thread::sleep(Duration::from_secs(2));
        }
        answer(&space, &ask)
    });
    world.lab.start_api_server()?;
    away.context("while the API server was away")?;
    let service =
        eventually(Duration::from_mins(1), || world.lab.create_service("after", &web("web")))?;
    eventually(Duration::from_mins(1), || world.settle_service(&service))?;
    world.lab.wait_proxy(node)?;
    world.lab.delete_service("after")
}

fn no_rules(world: &World) -> Result<()> {
    for node in world.lab.nodes() {
        let rules = node.space.output("nft", &["list", "ruleset"])?;
        ensure!(rules.trim().is_empty(), "{} has rules: {rules}", node.spec.name);
    }
    Ok(())
}

fn clean_node(world: &World, node: &Node) -> Result<()> {
    let name = node.spec.name;
    let pins: Vec<_> = fs::read_dir(node.bpffs())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            // The kernel's own files in every bpffs.
            path.extension().is_none_or(|extension| extension != "debug")
        })
        .collect();
    ensure!(pins.is_empty(), "{name} still has {pins:?}");
    let net = File::open(format!("/proc/{}/ns/net", node.space.pid()))?;
    let devices: Vec<_> = std::iter::once("eth0".to_owned())
        .chain(
            world
                .lab
                .pods()
                .iter()
                .filter(|pod| pod.spec.node.name == name)
                .filter_map(|pod| pod.device.clone()),
        )
        .collect();
    thread::spawn(move || {
        setns(net, CloneFlags::CLONE_NEWNET)?;
        for device in devices {
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, programs) = SchedClassifier::query_tcx(&device, side)?;
                ensure!(programs.is_empty(), "{device} {side:?} still has {programs:?}");
            }
        }
        Ok(())
    })
    .join()
    .map_err(|_panic| anyhow!("the query panicked"))?
    .with_context(|| name.to_owned())?;
    let verdict = node.space.ask(&Way::TCP.ask(world.web.at(Family::V4, 80)?, "hostname"))?;
    ensure!(verdict.answer().is_none(), "a ClusterIP still answers on {name}");
    Ok(())
}

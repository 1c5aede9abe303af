//! The end-to-end suite: whole clusters in the lab, the real control plane, the real agent.
//!
//! One lab of each cluster serves all cases. They run in each mode of the agent (with `DATAPATH_E2E_FULL`
//! also in those with tunnels); `DATAPATH_E2E_PROXY` names a single one instead (`socket-native`, `tc-none`…, or `kube-proxy-nftables`, `kube-proxy-iptables`: the
//! oracle, which proves the probes themselves).

mod alone;
mod connect;
mod external;
mod host_ports;
mod life;
mod scale;
mod stale;
mod tunnel;
mod world;

use anyhow::{Context as _, Result};
use lab::{
    cni, control, host, proxy,
    proxy::Kind,
    suite::Suite,
    topology::{ALONE, CALICO, MYK8S, Topology, Wiring},
};
use std::{env, process::ExitCode};
use tracing_subscriber::EnvFilter;
use world::World;

fn main() -> ExitCode {
    // The client of an API server that is away on purpose has much to say.
    let filter = EnvFilter::new("warn,kube_client=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut suite = Suite::from_arguments();
    if let Some(reason) = unable() {
        suite.ignore("e2e", &reason);
        return suite.finish();
    }
    if let Err(error) = run(&mut suite) {
        suite.case("lab", || Err(error));
    }
    suite.finish()
}

fn run(suite: &mut Suite) -> Result<()> {
    let kinds = kinds()?;
    for topology in [&MYK8S, &ALONE, &CALICO] {
        let kinds: Vec<Kind> =
            kinds.iter().copied().filter(|kind| kind.topology().name == topology.name).collect();
        if topology.wiring == Wiring::Agent
            && let Some(reason) = cni::missing()
        {
            suite.ignore(topology.name, &reason);
        } else if !kinds.is_empty() {
            run_cluster(suite, topology, &kinds)?;
        }
    }
    Ok(())
}

/// All cases, in each of the modes of one cluster.
fn run_cluster(suite: &mut Suite, topology: &'static Topology, kinds: &[Kind]) -> Result<()> {
    let first = kinds.first().copied().context("no modes")?;
    let alone = topology.wiring == Wiring::Agent;
    let mut world = World::up(topology, first)?;
    for kind in kinds.iter().copied() {
        world.kind = kind;
        suite.group(&kind.to_string());
        if !(alone && kind == first) {
            world.lab.start_proxies(kind)?;
        }
        world.settle()?;
        if alone {
            alone::run(suite, &world);
            life::clean(suite, &world)?;
            alone::clean(suite, &world);
            continue;
        }
        connect::run(suite, &world);
        external::run(suite, &world);
        host_ports::run(suite, &world);
        stale::run(suite, &world);
        life::run(suite, &world);
        if Kind::TUNNELS.contains(&kind) {
            tunnel::run(suite, &world);
        }
        if kind == Kind::MODES[0] || !kind.is_datapath() {
            scale::run(suite, &world);
        }
        life::clean(suite, &world)?;
    }
    suite.group(topology.name);
    suite.case("lab::down", || world.lab.down());
    Ok(())
}

/// Why the suite cannot run here.
fn unable() -> Option<String> {
    if env::var_os("DATAPATH_BIN").is_none() {
        return Some("DATAPATH_BIN is not set: `cargo xtask test` builds and sets it".to_owned());
    }
    host::missing()
        .or_else(|| control::programs().err().map(|error| error.to_string()))
        .or_else(|| proxy::datapath_binary().err().map(|error| error.to_string()))
}

/// The proxies to test. The modes with tunnels are tested in full only: a cluster more, which takes
/// minutes, is not for every change.
fn kinds() -> Result<Vec<Kind>> {
    let full = env::var_os("DATAPATH_E2E_FULL").is_some();
    let tunnels = if full { &Kind::TUNNELS[..] } else { &[] };
    let mut all = [&Kind::MODES[..], &Kind::ALONE, tunnels].concat();
    let Ok(wanted) = env::var("DATAPATH_E2E_PROXY") else { return Ok(all) };
    all.extend(Kind::TUNNELS);
    all.extend([Kind::KubeProxy("nftables"), Kind::KubeProxy("iptables")]);
    let kind = all.into_iter().find(|kind| kind.to_string() == wanted);
    Ok(vec![kind.with_context(|| format!("no proxy {wanted}"))?])
}

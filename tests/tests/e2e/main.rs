//! The end-to-end suite: whole clusters in the lab, the real control plane, the real agent.
//!
//! One lab of each cluster serves all cases. They run in each mode of the agent (in half of those with tunnels
//! only with `DATAPATH_E2E_FULL`); `DATAPATH_E2E_PROXY` names a single one instead (`socket-native`, `tc-none`…, or
//! `kube-proxy-nftables`, `kube-proxy-iptables`: the oracle, which proves the probes themselves).

mod alone;
mod connect;
mod external;
mod host_ports;
mod life;
mod masquerade;
mod scale;
mod stale;
mod tunnel;
mod world;

use anyhow::{Context as _, Result};
use lab::{
    cni,
    proxy::Kind,
    suite::{self, Suite},
    topology::{ALONE, CALICO, MYK8S, Topology, Wiring},
};
use std::{env, process::ExitCode};
use world::World;

fn main() -> ExitCode {
    suite::main("e2e", suite::unable, run)
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
        let renew = || world.renew();
        let mut cases = suite.cases(&renew);
        if alone {
            alone::run(&mut cases, &world);
            life::clean(suite, &world)?;
            alone::clean(suite, &world);
            continue;
        }
        connect::run(&mut cases, &world);
        external::run(&mut cases, &world);
        host_ports::run(&mut cases, &world);
        stale::run(&mut cases, &world);
        masquerade::run(&mut cases, &world);
        life::run(&mut cases, &world);
        if Kind::TUNNELS.contains(&kind) {
            tunnel::run(&mut cases, &world);
        }
        if kind == Kind::MODES[0] || !kind.is_datapath() {
            scale::run(&mut cases, &world);
        }
        life::clean(suite, &world)?;
    }
    suite.group(topology.name);
    suite.case("lab::down", || world.lab.down());
    Ok(())
}

/// The proxies to test. Half of the modes with tunnels are tested in full only: two to three minutes each are
/// not for every change.
fn kinds() -> Result<Vec<Kind>> {
    let full = env::var_os("DATAPATH_E2E_FULL").is_some();
    // Each way of routing, with the socket hooks and without.
    let tunnels = if full { &Kind::TUNNELS[..] } else { &Kind::TUNNELS[..2] };
    let mut all = [&Kind::MODES[..], &Kind::ALONE, tunnels].concat();
    let Ok(wanted) = env::var("DATAPATH_E2E_PROXY") else { return Ok(all) };
    all.extend(Kind::TUNNELS);
    all.extend([Kind::KubeProxy("nftables"), Kind::KubeProxy("iptables")]);
    let kind = all.into_iter().find(|kind| kind.to_string() == wanted);
    Ok(vec![kind.with_context(|| format!("no proxy {wanted}"))?])
}

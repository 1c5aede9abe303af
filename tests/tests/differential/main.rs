//! The differential test: random clusters, given to kube-proxy and to us, and random probes.
//!
//! Two labs with the same nodes, pods and objects, each with an API server of its own: the real
//! kube-proxy (nftables mode) on all nodes of one, our agent on those of the other, on each node in
//! another of its modes. Both follow the same histories. After every batch of changes the same
//! probes go to both, and each is held to what the reference model says of it: which backends
//! answer, which address of the client they see, or whether the client is refused or left without
//! an answer. Where the model of ours is another than that of kube-proxy, [`Deviation`] says why.
//!
//! `--minutes=N` says how long, `--seed=N` which history is the first.

mod hunt;
mod probe;
mod side;

use anyhow::{Result, bail, ensure};
use hunt::Hunt;
use lab::{
    control,
    proxy::Kind,
    semantics::{Deviation, run},
    suite,
};
use side::Side;
use std::{
    env,
    process::ExitCode,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

/// How long the test runs unless it is told otherwise.
const MINUTES: f64 = 2.0;
const NAME: &str = "differential::kube_proxy_nftables";

fn main() -> ExitCode {
    suite::main(NAME, unable, |suite| {
        suite.case(NAME, run);
        Ok(())
    })
}

/// Why the test cannot run here.
fn unable() -> Option<String> {
    let programs = control::programs().and_then(|folder| {
        ensure!(folder.join("kube-proxy").exists(), "there is no kube-proxy");
        Ok(())
    });
    suite::unable().or_else(|| programs.err().map(|error| error.to_string()))
}

/// What the command line says of something.
fn argument<T: FromStr>(name: &str) -> Option<T> {
    env::args().find_map(|argument| argument.strip_prefix(name)?.parse().ok())
}

fn run() -> Result<()> {
    let minutes: f64 = argument("--minutes=").unwrap_or(MINUTES);
    let first: u64 = argument("--seed=").unwrap_or_else(run::seed);
    let [oracle, ours] = thread::scope(|scope| {
        let oracle = scope.spawn(|| Side::up("kube-proxy", [Kind::KubeProxy("nftables"); 4], &[]));
        let ours = Side::up("datapath", Kind::MODES, &Deviation::ALL);
        let oracle = oracle.join().unwrap_or_else(|_panic| bail!("the lab panicked"));
        [oracle, ours]
    });
    let mut hunt = Hunt::new(oracle?, ours?);
    let deadline = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    println!("{minutes} minutes from seed {first}");
    let mut seed = first;
    let outcome = loop {
        if Instant::now() > deadline {
            break Ok(());
        }
        if let Err(error) = hunt.history(seed, deadline) {
            break Err(
                error.context(format!("to run it again: cargo xtask differential --seed {seed}"))
            );
        }
        seed = seed.wrapping_add(1);
    };
    println!("{}", hunt.figures());
    outcome
}

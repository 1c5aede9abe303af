//! What Services cost the proxy of a node: how long it needs from its start and for a change, and what it
//! uses meanwhile.

use crate::{
    cluster::{Cluster, Server, Variant},
    objects,
    usage::{self, Group},
};
use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use lab::{Lab, host};
use serde::Serialize;
use std::{
    thread,
    time::{Duration, Instant},
};

/// What was found of the proxy of the client's node.
#[derive(Clone, Debug, Serialize)]
pub struct Programming {
    /// The variant.
    pub variant: Variant,
    /// From its start, nothing of it on the node, until the last Service answered, in seconds.
    pub first_sync: f64,
    /// From before the write to the API until a pod could connect, in milliseconds: half of the
    /// changes stay below.
    pub p50_ms: f64,
    /// 99 % stay below.
    pub p99_ms: f64,
    /// The share of a CPU that it uses when nothing changes.
    pub at_rest: f64,
    /// The same under [`PER_SECOND`] changes of endpoints a second.
    pub under_changes: f64,
    /// Memory of the process in MiB.
    pub memory_mib: f64,
    /// That of its BPF maps.
    pub maps_mib: f64,
}

/// How much of it to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Changes that are timed.
    pub changes: usize,
    /// How long to look at its processor time, at rest and under changes.
    pub watch: Duration,
}

/// Changes of endpoints a second, while its processor time is looked at.
pub const PER_SECOND: u32 = 100;
/// After this long no more changes are made, if there were [`FEWEST`]: with many Services one can take
/// seconds.
const LONGEST: Duration = Duration::from_secs(30);
const FEWEST: usize = 5;

/// Takes the proxy off the client's node and everything that it made there, makes a change that no
/// proxy is to follow step by step, and starts it anew. How long it needs from there until the
/// [last Service](Cluster::last) answers; an error if that is longer than `patience`.
pub fn first_sync(
    cluster: &mut Cluster,
    patience: Duration,
    change: impl FnOnce(&Lab) -> Result<()>,
) -> Result<Duration> {
    let kind = cluster.variant.proxy().context("no proxy")?;
    cluster.end_proxy()?;
    lab::proxy::clean(cluster.home()?, kind)?;
    cluster.at_large(|cluster| {
        change(&cluster.lab)?;
        Group(host::lab_cgroup(cluster.lab.id())?).rest()?;
        let begin = Instant::now();
        cluster.lab.start_proxy(cluster.home()?, kind)?;
        cluster.wait_long(cluster.last, true, patience)?;
        Ok(begin.elapsed())
    })
}

/// Looks at the proxy, gives Service number `last` an endpoint that is ready beside the `others` and takes
/// it away again, time and again.
pub fn measure(
    cluster: &mut Cluster,
    (last, others): (usize, usize),
    first_sync: Duration,
    effort: Effort,
) -> Result<Programming> {
    let process = cluster.lab.proxy_pid(cluster.home()?)?;
    let (memory_mib, maps_mib) = (usage::memory(process)?, usage::maps(process)?);
    let proxy = Group(cluster.home()?.system_cgroup());
    let at_rest = proxy.share(effort.watch, || Ok(()))?;
    let latencies = changes(cluster, (last, others), effort.changes)?;
    let pod = cluster.pod_address(Server::Far);
    let under_changes = proxy.share(effort.watch, || {
        let begin = Instant::now();
        for number in 0..effort.watch.as_millis() as u32 * PER_SECOND / 1_000 {
            thread::sleep(
                (number * Duration::from_secs(1) / PER_SECOND).saturating_sub(begin.elapsed()),
            );
            let pods = if number % 2 == 0 { &[][..] } else { &[pod] };
            objects::set_endpoints(&cluster.lab, last, pods, others)?;
        }
        Ok(())
    })?;
    #[expect(clippy::cast_precision_loss, reason = "figures with three digits")]
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
    Ok(Programming {
        variant: cluster.variant,
        first_sync: first_sync.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        at_rest,
        under_changes,
        memory_mib,
        maps_mib,
    })
}

/// How long each of `count` changes took, in nanoseconds.
fn changes(
    cluster: &mut Cluster,
    (last, others): (usize, usize),
    count: usize,
) -> Result<Histogram<u64>> {
    let pod = cluster.pod_address(Server::Far);
    let mut latencies = Histogram::new(3)?;
    let begin = Instant::now();
    for done in 0..count {
        if done >= FEWEST && begin.elapsed() > LONGEST {
            break;
        }
        objects::set_endpoints(&cluster.lab, last, &[], others)?;
        cluster.wait(cluster.last, false)?;
        let give = |lab: &Lab| objects::set_endpoints(lab, last, &[pod], others);
        latencies.record(cluster.wait_after(cluster.last, give)?.as_nanos() as u64)?;
    }
    Ok(latencies)
}

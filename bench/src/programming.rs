//! How long a change takes from the API into the kernel, and how long a proxy needs from its start.

use crate::{
    cluster::{Cluster, Server, Variant},
    objects,
};
use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use lab::Lab;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What was found of a variant.
#[derive(Clone, Debug, Serialize)]
pub struct Programming {
    /// The variant.
    pub variant: Variant,
    /// From before the write to the API until a pod could connect, in milliseconds: half of the
    /// changes stay below.
    pub p50_ms: f64,
    /// 99 % stay below.
    pub p99_ms: f64,
    /// From the start of the proxy on the client's node, nothing of it there, until the last Service
    /// answered, in seconds.
    pub first_sync: f64,
}

/// Gives the last Service an endpoint and takes it away again, `changes` times, and then starts
/// the proxy of the client's node anew.
pub fn measure(cluster: &mut Cluster, services: usize, changes: usize) -> Result<Programming> {
    let pod = cluster.pod_address(Server::Far);
    let last = services - 1;
    let mut latencies = Histogram::<u64>::new(3)?;
    for _ in 0..changes {
        objects::set_endpoints(&cluster.lab, last, &[])?;
        cluster.wait(cluster.last, false)?;
        // No later than the next change may one be held back.
        std::thread::sleep(Duration::from_millis(50));
        let give = |lab: &Lab| objects::set_endpoints(lab, last, &[pod]);
        latencies.record(cluster.wait_after(cluster.last, true, give)?.as_nanos() as u64)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "figures with three digits")]
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
    let first_sync = restart(cluster)?.as_secs_f64();
    Ok(Programming { variant: cluster.variant, p50_ms: at(0.5), p99_ms: at(0.99), first_sync })
}

fn restart(cluster: &mut Cluster) -> Result<Duration> {
    let kind = cluster.variant.proxy().context("no proxy")?;
    let node = cluster.home()?;
    cluster.lab.take_proxy(node)?.stop()?;
    lab::proxy::clean(node, kind)?;
    let begin = Instant::now();
    cluster.lab.start_proxy(node, kind)?;
    cluster.wait(cluster.last, true)?;
    Ok(begin.elapsed())
}

//! How long a change takes from the API into the kernel, and how long a proxy needs from its start.

use crate::{
    cluster::{Cluster, Server, Variant},
    load::order::PORT,
    objects,
};
use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use lab::Lab;
use serde::Serialize;
use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

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

/// After this long no more changes are made, if there were [`FEWEST`]: with many Services one can take
/// seconds.
const LONGEST: Duration = Duration::from_secs(45);
const FEWEST: usize = 10;

/// Services with many endpoints each.
#[derive(Clone, Copy, Debug)]
pub struct Heavy {
    /// How many Services.
    pub services: usize,
    /// How many endpoints each.
    pub endpoints: usize,
}

impl fmt::Display for Heavy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { services, endpoints } = self;
        write!(f, "{services} Services more with {endpoints} endpoints each, one becoming ready")
    }
}

/// Gives the last Service an endpoint and takes it away again, at most `changes` times, and then
/// starts the proxy of the client's node anew.
pub fn measure(cluster: &mut Cluster, services: usize, changes: usize) -> Result<Programming> {
    change(cluster, services - 1, 0, changes)
}

/// The same after Services with many endpoints have come; the one that changes has as many, of which
/// none is ready but that which comes and goes, so that whoever connects finds it.
pub fn measure_heavy(cluster: &mut Cluster, heavy: Heavy, changes: usize) -> Result<Programming> {
    let Heavy { services, endpoints } = heavy;
    let pod = cluster.pod_address(Server::Far);
    let numbers = objects::HEAVY..objects::HEAVY + services;
    let last = numbers.end - 1;
    objects::add_heavy_services(&cluster.lab, numbers, endpoints)?;
    objects::set_endpoints(&cluster.lab, last, &[pod], endpoints - 1)?;
    cluster.last = SocketAddr::new(objects::address(last).into(), PORT);
    cluster.wait(cluster.last, true)?;
    change(cluster, last, endpoints - 1, changes)
}

fn change(
    cluster: &mut Cluster,
    last: usize,
    others: usize,
    changes: usize,
) -> Result<Programming> {
    let pod = cluster.pod_address(Server::Far);
    let mut latencies = Histogram::<u64>::new(3)?;
    let begin = Instant::now();
    for done in 0..changes {
        if done >= FEWEST && begin.elapsed() > LONGEST {
            break;
        }
        objects::set_endpoints(&cluster.lab, last, &[], others)?;
        cluster.wait(cluster.last, false)?;
        // No later than the next change may one be held back.
        std::thread::sleep(Duration::from_millis(50));
        let give = |lab: &Lab| objects::set_endpoints(lab, last, &[pod], others);
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

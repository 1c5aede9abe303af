//! What the number of Services does to those who use one, and to those who use none.

use crate::{
    cluster::{Client, Cluster, Server, Way},
    load::order::{Kind, PORT},
    measure::Measure,
    objects,
    round::{self, Finding, Plan},
};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

/// What was found at a number of Services.
#[derive(Debug)]
pub struct Point {
    /// How many there were.
    pub services: usize,
    /// Time to connect to the first and the last of them, and to a pod.
    pub findings: Vec<Finding>,
    /// What the proxies needed.
    pub needs: Vec<Need>,
}

/// What the proxy of the client's node needed.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// The variant.
    pub variant: crate::cluster::Variant,
    /// From the last write to the API until its Service answered, in seconds.
    pub settled: f64,
    /// Memory of the process in MiB.
    pub memory_mib: f64,
    /// Processor time that it has used in all, in seconds.
    pub processor: f64,
}

/// Whom a connection goes to.
const FIRST: Measure = handshake("connect-first", "first Service", Way::ClusterIp);
const LAST: Measure = handshake("connect-last", "last Service", Way::Last);
const BYSTANDER: Measure = handshake("connect-bystander", "a pod (bystander)", Way::Pod);

const fn handshake(id: &'static str, title: &'static str, way: Way) -> Measure {
    Measure { id, title, kind: Kind::Handshakes, client: Client::Pod, way, server: Server::Far }
}

/// Adds Services up to each of the numbers, and measures at each. From here on only the client's node has
/// a proxy that runs.
pub fn climb(
    clusters: &mut [Cluster],
    numbers: &[usize],
    plan: Plan,
    tell: impl Fn(String),
) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    let mut there = 0;
    for cluster in clusters.iter() {
        cluster.end_other_proxies()?;
        objects::more_addresses(&cluster.lab)?;
    }
    for &services in numbers {
        let mut needs = Vec::new();
        for cluster in clusters.iter_mut() {
            tell(format!("{services} Services: {}", cluster.variant.name()));
            let from = there.min(services - 1);
            objects::add_services(&cluster.lab, from..services, cluster.pod_address(Server::Far))?;
            let written = Instant::now();
            cluster.last = SocketAddr::new(objects::address(services - 1).into(), PORT);
            cluster.wait(cluster.last, true)?;
            needs.push(need(cluster, written.elapsed())?);
        }
        there = services;
        // What the proxies still have to do is not to be measured.
        std::thread::sleep(Duration::from_secs(2));
        tell(format!("{services} Services: connecting"));
        let findings = [FIRST, LAST, BYSTANDER]
            .into_iter()
            .map(|measure| round::go(measure, clusters, plan, || ()))
            .collect::<Result<_>>()?;
        points.push(Point { services, findings, needs });
    }
    Ok(points)
}

#[expect(clippy::cast_precision_loss, reason = "figures with three digits")]
fn need(cluster: &Cluster, settled: Duration) -> Result<Need> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let pid = cluster.lab.proxy_pid(cluster.home()?)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
        .context("no VmRSS")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Fields 14 and 15, counted from behind the name, which may hold blanks.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 =
        fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Need {
        variant: cluster.variant,
        settled: settled.as_secs_f64(),
        memory_mib: resident as f64 / 1024.0,
        processor: ticks as f64 / TICKS_PER_SECOND,
    })
}

/// The placeholder of a cluster without such a Service.
pub const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

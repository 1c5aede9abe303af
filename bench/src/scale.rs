//! What the number of Services does to those who use one, to those who use none, and to the proxy.

use crate::{
    cluster::{self, Client, Cluster, Server, Variant, Way},
    load::order::{Kind, PORT},
    measure::Measure,
    objects,
    programming::{self, Effort, Programming},
    round::{self, Finding, Plan},
};
use anyhow::{Error, Result};
use lab::Lab;
use serde::Serialize;
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    thread,
    time::Duration,
};

/// What was found at a number of Services.
#[derive(Debug)]
pub struct Point {
    /// How many there were.
    pub services: usize,
    /// Time to connect to the first and the last of them, and to a pod.
    pub findings: Vec<Finding>,
    /// What they cost the proxies.
    pub programming: Vec<Programming>,
    /// The proxies that did not come so far.
    pub lost: Vec<Lost>,
}

/// A proxy that did not come so far.
#[derive(Clone, Debug, Serialize)]
pub struct Lost {
    /// The variant.
    pub variant: Variant,
    /// What went wrong.
    pub why: String,
}

/// Services with many endpoints each, beside as many with one.
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

impl Heavy {
    fn numbers(self) -> Range<usize> {
        objects::HEAVY..objects::HEAVY + self.services
    }
}

/// How much to measure at a number of Services.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// For the latency of connections.
    pub plan: Plan,
    /// For the proxies.
    pub effort: Effort,
}

/// How long a proxy may take for its first sync: with iptables 1.8.9, kube-proxy takes about a minute for
/// 10,000 Services, and that grows with their square.
const PATIENCE: Duration = Duration::from_mins(3);

/// Whom a connection goes to.
const FIRST: Measure = handshake("connect-first", "first Service", Way::ClusterIp);
const LAST: Measure = handshake("connect-last", "last Service", Way::Last);
const BYSTANDER: Measure = handshake("connect-bystander", "a pod (bystander)", Way::Pod);

const fn handshake(id: &'static str, title: &'static str, way: Way) -> Measure {
    Measure { id, title, kind: Kind::Handshakes, client: Client::Pod, way, server: Server::Far }
}

/// Clusters whose number of Services grows.
#[derive(Debug)]
pub struct Climb {
    clusters: Vec<Cluster>,
    there: usize,
    level: Level,
}

impl Climb {
    /// From here on only the client's node has a proxy that runs.
    pub fn begin(clusters: Vec<Cluster>, level: Level) -> Result<Self> {
        for cluster in &clusters {
            cluster.end_other_proxies()?;
            objects::more_addresses(&cluster.lab)?;
        }
        Ok(Self { clusters, there: 0, level })
    }

    /// Adds Services up to this number, and measures there. A kube-proxy that does not come so far is lost
    /// from here on.
    pub fn to(&mut self, services: usize, tell: impl Fn(String)) -> Result<Point> {
        let new = self.there.min(services - 1)..services;
        let (mut synced, mut lost) = (Vec::new(), Vec::new());
        for mut cluster in std::mem::take(&mut self.clusters) {
            tell(format!("{services} Services: {}", cluster.variant.name()));
            cluster.last = SocketAddr::new(objects::address(services - 1).into(), PORT);
            let pod = cluster.pod_address(Server::Far);
            let add = |lab: &Lab| objects::add_services(lab, new.clone(), pod);
            match programming::first_sync(&mut cluster, PATIENCE, add) {
                Ok(first_sync) => {
                    synced.push(first_sync);
                    self.clusters.push(cluster);
                }
                Err(error) => lost.push(Lost::of(&cluster, error, &tell)?),
            }
        }
        self.there = services;
        // What the proxies still have to do is not to be measured.
        thread::sleep(Duration::from_secs(2));
        tell(format!("{services} Services: connecting"));
        let findings = [FIRST, LAST, BYSTANDER]
            .into_iter()
            .map(|measure| round::go(measure, &mut self.clusters, self.level.plan, || ()))
            .collect::<Result<_>>()?;
        let mut programming = Vec::new();
        for (cluster, first_sync) in self.clusters.iter_mut().zip(synced) {
            tell(format!("{services} Services, changes: {}", cluster.variant.name()));
            let (service, effort) = ((services - 1, 0), self.level.effort);
            programming.push(programming::measure(cluster, service, first_sync, effort)?);
        }
        Ok(Point { services, findings, programming, lost })
    }

    /// Adds Services with many endpoints, measures the proxies, and takes them away again. The one that
    /// changes has as many, of which none is ready but that which comes and goes, so that whoever connects
    /// finds it.
    pub fn heavy(&mut self, heavy: Heavy, tell: impl Fn(String)) -> Result<Point> {
        let changing = heavy.numbers().end - 1;
        let others = heavy.endpoints - 1;
        let (mut programming, mut lost) = (Vec::new(), Vec::new());
        for cluster in &mut self.clusters {
            tell(format!("{heavy}: {}", cluster.variant.name()));
            cluster.last = SocketAddr::new(objects::address(changing).into(), PORT);
            let pod = cluster.pod_address(Server::Far);
            let add = |lab: &Lab| {
                objects::add_heavy_services(lab, heavy.numbers(), heavy.endpoints)?;
                objects::set_endpoints(lab, changing, &[pod], others)
            };
            let found =
                programming::first_sync(cluster, cluster::PATIENCE, add).and_then(|first_sync| {
                    programming::measure(cluster, (changing, others), first_sync, self.level.effort)
                });
            match found {
                Ok(found) => programming.push(found),
                Err(error) => lost.push(Lost::of(cluster, error, &tell)?),
            }
            // Its successor begins anew; what it would do until then would take the CPU from others.
            cluster.end_proxy()?;
            objects::delete_services(&cluster.lab, heavy.numbers())?;
        }
        let services = self.there + heavy.services;
        Ok(Point { services, findings: Vec::new(), programming, lost })
    }
}

impl Lost {
    /// A kube-proxy may be lost, which is told; with ours, that is an error.
    fn of(cluster: &Cluster, error: Error, tell: impl Fn(String)) -> Result<Self> {
        let variant = cluster.variant;
        let error = error.context(variant.name());
        match variant {
            Variant::KubeProxy(_) => {
                let why = format!("{error:#}");
                tell(why.clone());
                Ok(Self { variant, why })
            }
            _ => Err(error),
        }
    }
}

/// The placeholder of a cluster without such a Service.
pub const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

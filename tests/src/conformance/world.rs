//! The cluster that all cases share, and how to know that a proxy has seen a change.

use super::{
    case::Setup,
    place::{
        AWAY, AWAY_POD, ELSEWHERE, ELSEWHERE_POD, Endpoint, Entry, FAR, FAR_2, HOME, HOST_FAR,
        HOST_NEAR, HOST_PORT, NEAR, NEAR_2, POD, POD_2, THIRD,
    },
};
use crate::{
    Lab,
    manifest::{POD_PORT, PodSpec},
    proto::{Op, Proto, Verdict},
    proxy::Kind,
    renew::Snapshot,
    service::Service,
    space::{lock, request},
    suite::eventually,
    topology::{Family, NodeSpec, OUTSIDE, SERVICE_RANGES},
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a proxy may take to see a change.
const PATIENCE: Duration = Duration::from_mins(1);
/// The ports of the Service that tells of changes seen.
const FIRST_PORT: u16 = 1000;
const PORTS: u16 = 1000;
/// Label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The zones that have nodes.
const ZONES: [(&NodeSpec, &str); 3] = [(HOME, "a"), (AWAY, "b"), (ELSEWHERE, "b")];
/// The endpoints that have hints for zones.
const HINTS: [(Endpoint, &str); 2] = [(NEAR, "a"), (FAR, "b")];
/// Requests after which endpoints of all zones would have answered.
const REQUESTS: u32 = 16;

/// The lab with the pods that the table knows.
#[derive(Debug)]
pub struct World {
    /// The lab.
    pub lab: Lab,
    settled: Service,
    /// Its endpoints have hints for zones.
    zones: Service,
    snapshot: Snapshot,
    last: Mutex<Round>,
    /// Whether the proxies handle only what has their name.
    named: AtomicBool,
    next_entry: AtomicU8,
}

#[derive(Debug)]
struct Round {
    number: u16,
    started: Instant,
}

impl World {
    /// Starts the cluster.
    pub fn up() -> Result<Self> {
        let lab = Lab::builder().up()?;
        let pod = |name: &str, node: &'static NodeSpec| PodSpec::new(name, node, name);
        let pods = [POD, POD_2, AWAY_POD, ELSEWHERE_POD]
            .map(|client| pod(client.space, client.node))
            .into_iter()
            .chain([NEAR, NEAR_2, FAR, FAR_2, THIRD].map(|end| pod(end.pod, end.node)))
            .chain(
                [HOST_NEAR, HOST_FAR]
                    .map(|end| pod(end.pod, end.node).on_host_network().serving(&[HOST_PORT])),
            );
        lab.create_pods(pods.collect())?;
        for pod in lab.pods() {
            serve_sctp(&lab, &pod.spec.name)?;
        }
        for (node, zone) in ZONES {
            lab.patch_node(node.name, &json!({"metadata": {"labels": {ZONE: zone}}}))?;
        }
        route_entries(&lab)?;
        allow_errors(&lab)?;
        let ports = settled_ports(FIRST_PORT);
        let settled = lab.create_service("settled", &json!({"ports": ports}))?;
        let zones = create_zones(&lab)?;
        let snapshot = lab.snapshot()?;
        Ok(Self {
            lab,
            settled,
            zones,
            snapshot,
            last: Mutex::new(Round { number: 0, started: Instant::now() }),
            named: AtomicBool::new(false),
            next_entry: AtomicU8::new(1),
        })
    }

    /// Starts the proxies of all nodes.
    pub fn start(&self, kind: Kind, setup: Setup) -> Result<()> {
        self.lab.start_proxies_with(kind, &arguments(kind, setup))?;
        self.named.store(setup == Setup::Named && kind.is_datapath(), Ordering::Relaxed);
        self.settle()?;
        self.settle_nodes()
    }

    /// Puts everything back as it was before the first case.
    pub(super) fn renew(&self) -> Result<()> {
        self.lab.restore(&self.snapshot)?;
        self.settle()?;
        self.settle_nodes()
    }

    /// Has all Nodes as they were in the beginning, a proxy on each, and each proxy know its Node: no
    /// order holds between what is seen of Nodes and of Services.
    pub fn settle_nodes(&self) -> Result<()> {
        self.lab.restore_nodes(&self.snapshot)?;
        let settled = || {
            eventually(PATIENCE, || {
                self.lab.revive_proxies()?;
                // Proxies with a name have nothing to do with the Service.
                if self.named.load(Ordering::Relaxed) { Ok(()) } else { self.zones_are_seen() }
            })
        };
        // A kube-proxy that starts while its Node changes can miss the zone for good.
        let ours = self.lab.last_start().is_some_and(|(kind, _)| kind.is_datapath());
        settled().or_else(|error| {
            if ours {
                return Err(error);
            }
            self.lab.restart_proxies(self.lab.nodes())?;
            settled()
        })
    }

    fn zones_are_seen(&self) -> Result<()> {
        for node in self.lab.nodes() {
            let zone = ZONES.iter().find(|(spec, _)| spec.name == node.spec.name);
            let hints = HINTS.iter().filter(|(_, hint)| zone.is_none_or(|(_, zone)| zone == hint));
            let wanted: BTreeSet<&str> = hints.map(|(endpoint, _)| endpoint.pod).collect();
            for family in Family::ALL {
                let ask = request(Proto::Tcp, self.zones.at(family, 80)?, "/hostname");
                let counts = node.space.spread(&ask, REQUESTS)?;
                let seen: BTreeSet<&str> = counts.keys().filter_map(Verdict::answer).collect();
                ensure!(
                    seen == wanted && counts.len() == seen.len(),
                    "{} has not seen its Node: {counts:?}",
                    node.spec.name
                );
            }
        }
        Ok(())
    }

    /// The number of the addresses from outside for a new Service.
    pub fn next_entry(&self) -> u8 {
        // 0 and 255 are no addresses of a host.
        self.next_entry.fetch_add(1, Ordering::Relaxed) % 254 + 1
    }

    /// Returns when every node's proxy has seen what was changed before the call: watches keep the
    /// order of changes, so a later change to a Service and to a slice is asked for. Calls that come
    /// while one is under way share the next.
    pub fn settle(&self) -> Result<()> {
        let arrived = Instant::now();
        let mut last = lock(&self.last);
        if last.started > arrived {
            return Ok(());
        }
        let (number, started) = (last.number.wrapping_add(1), Instant::now());
        let port = FIRST_PORT + number % PORTS;
        let backend = if number.is_multiple_of(2) { NEAR } else { FAR };
        let name = self.named.load(Ordering::Relaxed).then_some(NAME);
        let patch = json!({
            "metadata": {"labels": {PROXY_NAME: name}}, "spec": {"ports": settled_ports(port)},
        });
        self.lab.patch_service(self.settled.name(), &patch)?;
        let slices = Family::ALL.map(|family| {
            let address = self.lab.pod(backend.pod).map(|pod| pod.address.get(family));
            address.map(|address| {
                let mut slice = slice(
                    &format!("settled-{family}"),
                    self.settled.name(),
                    family,
                    &json!([{"name": "http", "port": POD_PORT, "protocol": "TCP"}]),
                    &[backend.entry(address)],
                );
                if let Some(name) = name {
                    slice["metadata"]["labels"][PROXY_NAME] = json!(name);
                }
                slice
            })
        });
        self.lab.api()?.apply_slices(slices.into_iter().collect::<Result<_>>()?)?;
        for node in self.lab.nodes() {
            for family in Family::ALL {
                let mut ask = request(Proto::Tcp, self.settled.at(family, port)?, "/hostname");
                ask.timeout_ms = 300;
                eventually(PATIENCE, || {
                    let verdict = node.space.ask(&ask)?;
                    ensure!(
                        verdict.answer() == Some(backend.pod),
                        "{} has not seen a change: {verdict}",
                        node.spec.name
                    );
                    Ok(())
                })?;
            }
        }
        *last = Round { number, started };
        Ok(())
    }
}

/// A Service whose endpoints tell what a proxy takes for its zone.
fn create_zones(lab: &Lab) -> Result<Service> {
    let ports = json!([{"name": "http", "port": 80, "targetPort": POD_PORT, "protocol": "TCP"}]);
    let service = lab.create_service("zones", &json!({"ports": ports}))?;
    let slices = Family::ALL.map(|family| {
        let entries = HINTS.map(|(endpoint, zone)| {
            let address = lab.pod(endpoint.pod)?.address.get(family);
            Ok(endpoint.for_zone(zone).entry(address))
        });
        let entries = entries.into_iter().collect::<Result<Vec<_>>>()?;
        let ports = json!([{"name": "http", "port": POD_PORT, "protocol": "TCP"}]);
        Ok(slice(&format!("zones-{family}"), service.name(), family, &ports, &entries))
    });
    lab.api()?.apply_slices(slices.into_iter().collect::<Result<_>>()?)?;
    Ok(service)
}

/// The label that gives an object to the proxy of a name.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The name under [`Setup::Named`].
pub const NAME: &str = "lab";

fn settled_ports(port: u16) -> Value {
    json!([{"name": "http", "port": port, "targetPort": POD_PORT, "protocol": "TCP"}])
}

/// An EndpointSlice without a controller behind it.
pub(super) fn slice(
    name: &str,
    service: &str,
    family: Family,
    ports: &Value,
    endpoints: &[Value],
) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": match family { Family::V4 => "IPv4", Family::V6 => "IPv6" },
        "ports": ports, "endpoints": endpoints,
    })
}

/// Has a pod answer over SCTP as well.
pub(super) fn serve_sctp(lab: &Lab, name: &str) -> Result<()> {
    let pod = lab.pod(name)?;
    let addresses =
        pod.spec.ports.iter().flat_map(|port| {
            pod.address.both().map(|ip| (Proto::Sctp, SocketAddr::new(ip, *port)))
        });
    pod.space.tell(Op::Serve(addresses.collect()))
}

/// The flags of a setup.
fn arguments(kind: Kind, setup: Setup) -> Vec<String> {
    let ours = kind.is_datapath();
    let flags: &[&str] = match (setup, ours) {
        // kube-proxy 1.36 has no setting for a name.
        (Setup::Usual, _) | (Setup::Named, false) => &[],
        (Setup::MasqueradeAll, true) => &["--masquerade-all", "--nodeport-addresses=all"],
        (Setup::MasqueradeAll, false) => {
            &["--masquerade-all", "--nodeport-addresses=0.0.0.0/0,::/0"]
        }
        (Setup::Range, true) => &["--nodeport-addresses=172.18.0.0/16"],
        (Setup::Range, false) => &["--nodeport-addresses=172.18.0.0/16", "--cluster-cidr="],
        (Setup::Named, true) => &["--service-proxy-name=lab"],
        (Setup::NodeRanges, _) => &["--detect-local-mode=NodeCIDR"],
        (Setup::Interfaces, _) => {
            &["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"]
        }
    };
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

/// The client outside sends what is for the Services to a node.
fn route_entries(lab: &Lab) -> Result<()> {
    let mut lines = String::new();
    for range in SERVICE_RANGES {
        let family = if range.contains(':') { Family::V6 } else { Family::V4 };
        let via = HOME.address().get(family).to_string();
        lines.extend(["route replace ", range, " via ", &via, "\n"]);
    }
    for entry in Entry::ALL {
        for family in Family::ALL {
            let (range, via) = (entry.range(family), entry.by().address().get(family));
            lines.extend(["route replace ", &range, " via ", &via.to_string(), "\n"]);
        }
    }
    lab.space(OUTSIDE)?.ip(&lines)
}

/// Linux limits how often it tells one client that nobody serves; here many ask at once.
fn allow_errors(lab: &Lab) -> Result<()> {
    let limits = ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"];
    let values: Vec<_> = limits.map(|path| (path.to_owned(), "0".to_owned())).to_vec();
    for node in lab.nodes() {
        node.space.tell(Op::Sysctl(values.clone()))?;
    }
    Ok(())
}

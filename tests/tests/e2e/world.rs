//! The cluster that the cases share, and what they say about it.

use anyhow::{Result, bail, ensure};
use lab::{
    Lab, Pod,
    manifest::{HOST_POD_PORT, POD_PORT, PodSpec},
    proto::{Ask, Op, Proto, Verdict},
    proxy::Kind,
    renew::Snapshot,
    service::{Service, web, web_ports},
    space::{Space, request},
    suite::eventually,
    topology::{Family, NodeSpec, OUTSIDE, Topology, Wiring},
};
use serde_json::json;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// How long a change may take to reach every node where no case says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The pod that most requests come from; the Service `itself` leads back to it.
pub(crate) const CLIENT: &str = "client";
/// A backend of a Service that has only this one, seen from the node of [`CLIENT`].
pub(crate) struct Target {
    /// What a case is called by it.
    pub(crate) place: &'static str,
    /// The Service.
    pub(crate) service: Service,
    /// Who must answer.
    pub(crate) backend: &'static str,
}

/// The lab with what is in it from the beginning.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) kind: Kind,
    /// The node of [`CLIENT`].
    pub(crate) home: &'static NodeSpec,
    /// The node of the pod `other`, in the same subnet.
    pub(crate) away: &'static NodeSpec,
    /// Services with one backend each.
    pub(crate) targets: Vec<Target>,
    /// All pods `web-*`.
    pub(crate) web: Service,
    /// No endpoints at all.
    pub(crate) empty: Service,
    /// All that.
    snapshot: Snapshot,
}

/// One way to ask: TCP, UDP from an unconnected and from a connected socket.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    proto: Proto,
    connected: bool,
}

impl Way {
    pub(crate) const TCP: Self = Self { proto: Proto::Tcp, connected: true };
    pub(crate) const UDP: Self = Self { proto: Proto::Udp, connected: false };
    pub(crate) const CONNECTED_UDP: Self = Self { proto: Proto::Udp, connected: true };
    pub(crate) const ALL: [Self; 3] = [Self::TCP, Self::UDP, Self::CONNECTED_UDP];

    pub(crate) fn is_udp(self) -> bool {
        self.proto == Proto::Udp
    }

    pub(crate) fn is_connected(self) -> bool {
        self.connected
    }

    /// The request `what` (`hostname`, `clientip`…) this way.
    pub(crate) fn ask(self, to: SocketAddr, what: &str) -> Ask {
        let query = if self.proto == Proto::Tcp { format!("/{what}") } else { what.to_owned() };
        Ask { connected: self.connected, ..request(self.proto, to, &query) }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.connected { "connected " } else { "" }, self.proto)
    }
}

impl World {
    /// `kind` runs before there are pods where they are its to connect.
    pub(crate) fn up(topology: &'static Topology, kind: Kind) -> Result<Self> {
        let mut builder = Lab::builder().topology(topology).pods_per_node(2).host_pods();
        if topology.wiring == Wiring::Agent {
            builder = builder.proxies(kind);
        }
        let lab = builder.up()?;
        let [_, home, away, third] = &topology.nodes;
        let outside = topology.outside.both().into_iter().flat_map(|ip| {
            [Proto::Tcp, Proto::Udp].map(|proto| (proto, SocketAddr::new(ip, POD_PORT)))
        });
        lab.space(OUTSIDE)?.tell(Op::Serve(outside.collect()))?;
        lab.create_pods(vec![
            PodSpec::new(CLIENT, home, "itself"),
            PodSpec::new("same", home, "same"),
            PodSpec::new("other", away, "other"),
            PodSpec::new("hostnet-same", home, "hostnet-same").on_host_network().serving(&[9081]),
            PodSpec::new("hostnet-other", third, "hostnet-other")
                .on_host_network()
                .serving(&[9081]),
        ])?;
        let service = |app: &str, port: u16| {
            let spec = json!({"selector": {"app": app}, "ports": web_ports(port)});
            lab.create_service(app, &spec)
        };
        let target = |place, backend, port| {
            let app = if backend == CLIENT { "itself" } else { backend };
            anyhow::Ok(Target { place, backend, service: service(app, port)? })
        };
        let targets = vec![
            target("same_node", "same", POD_PORT)?,
            target("other_node", "other", POD_PORT)?,
            target("host_network_here", "hostnet-same", 9081)?,
            target("host_network_there", "hostnet-other", 9081)?,
            target("client_itself", CLIENT, POD_PORT)?,
        ];
        let web = lab.create_service("web", &web("web"))?;
        let empty = service("empty", POD_PORT)?;
        service("host", HOST_POD_PORT)?;
        let snapshot = lab.snapshot()?;
        Ok(Self { lab, kind, home, away, targets, web, empty, snapshot })
    }

    /// Puts everything back as it was before the first case.
    pub(crate) fn renew(&self) -> Result<()> {
        self.set_underlay_mtu(self.lab.topology().mtu)?;
        if self.kind.is_datapath() {
            for node in self.lab.nodes() {
                node.space.output("nft", &["flush", "ruleset"])?;
            }
        }
        self.lab.restore(&self.snapshot)?;
        self.settle()
    }

    /// Sets what the network between the nodes carries.
    pub(crate) fn set_underlay_mtu(&self, mtu: u32) -> Result<()> {
        for node in self.lab.nodes() {
            node.space.ip(&format!("link set eth0 mtu {mtu}\n"))?;
            let port = format!("link set p-{} mtu {mtu}\n", node.spec.short());
            self.space("bridge")?.ip(&port)?;
            // What was learnt of paths.
            node.space.output("ip", &["-6", "route", "flush", "cache"])?;
            node.space.output("ip", &["route", "flush", "cache"])?;
        }
        Ok(())
    }

    /// Waits until every node answers for every Service that has a backend.
    pub(crate) fn settle(&self) -> Result<()> {
        let services = self.targets.iter().map(|target| &target.service).chain([&self.web]);
        services.into_iter().try_for_each(|service| self.settle_service(service))
    }

    /// Waits until every node answers for a Service on port 80.
    pub(crate) fn settle_service(&self, service: &Service) -> Result<()> {
        for node in self.lab.nodes() {
            for family in Family::ALL {
                for way in Way::ALL {
                    let ask = way.ask(service.at(family, 80)?, "hostname");
                    eventually(PATIENCE, || answer(&node.space, &ask))?;
                }
            }
        }
        Ok(())
    }

    /// Asks each pod that serves by each such pod, without a Service.
    pub(crate) fn every_pod_reaches_every_pod(&self) -> Result<()> {
        let pods = self.lab.pods();
        let serves = |pod: &&Arc<Pod>| !pod.spec.host_network && pod.spec.ports == [POD_PORT];
        let pods: Vec<_> = pods.iter().filter(serves).collect();
        let mut checks = Vec::new();
        for client in &pods {
            for server in &pods {
                for family in Family::ALL {
                    let to = SocketAddr::new(server.address.get(family), POD_PORT);
                    let ask = Way::TCP.ask(to, "hostname");
                    checks.push(expect_answer(&client.space, &ask, &server.spec.name));
                }
            }
        }
        all(checks)
    }

    pub(crate) fn space(&self, name: &str) -> Result<Arc<Space>> {
        self.lab.space(name)
    }

    /// Whether the proxy is the real kube-proxy in this mode.
    pub(crate) fn oracle(&self, mode: &str) -> bool {
        self.kind == Kind::KubeProxy(if mode == "nftables" { "nftables" } else { "iptables" })
    }
}

/// The answer to a request; anything else is an error.
pub(crate) fn answer(space: &Space, ask: &Ask) -> Result<String> {
    match space.ask(ask)? {
        Verdict::Answer(text) => Ok(text),
        other => bail!("{} from {} to {}: {other}", ask.proto, space.name(), ask.to),
    }
}

/// Requires an answer from `backend`.
pub(crate) fn expect_answer(space: &Space, ask: &Ask, backend: &str) -> Result<()> {
    let text = answer(space, ask)?;
    ensure!(
        text == backend,
        "{} from {} to {}: {text} answered, not {backend}",
        ask.proto,
        space.name(),
        ask.to
    );
    Ok(())
}

/// Requires that the client is told at once that nobody serves there.
pub(crate) fn expect_rejection(space: &Space, ask: &Ask) -> Result<()> {
    let verdict = space.ask(ask)?;
    ensure!(
        verdict.is_rejection(),
        "{} from {} to {}: {verdict} instead of a rejection",
        ask.proto,
        space.name(),
        ask.to
    );
    Ok(())
}

/// Requires silence.
pub(crate) fn expect_silence(space: &Space, ask: &Ask) -> Result<()> {
    let ask = Ask { timeout_ms: 400, ..ask.clone() };
    let verdict = space.ask(&ask)?;
    ensure!(
        verdict == Verdict::Timeout,
        "{} from {} to {}: {verdict} instead of silence",
        ask.proto,
        space.name(),
        ask.to
    );
    Ok(())
}

/// Runs all checks and joins what failed, so that one case shows the whole picture.
pub(crate) fn all(checks: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let problems: Vec<_> =
        checks.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

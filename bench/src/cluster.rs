//! A cluster for each variant, with the load in its namespaces.

use crate::{
    load::order::{DRAIN, Order, PORT, Report, SINK, Work},
    machine::Cpus,
    process::Load,
    round::Side,
    scale::NOWHERE,
};
use anyhow::{Context as _, Result, bail};
use lab::{
    Lab, Node, host,
    manifest::PodSpec,
    proxy::Kind as Proxy,
    service::Service,
    space::Space,
    topology::{Family, NODES, NodeSpec, OUTSIDE},
};
use serde::{Serialize, Serializer};
use serde_json::json;
use std::{
    env,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

/// The node of the client and of the near server.
const HOME: &NodeSpec = &NODES[1];
/// The node of the far server.
const AWAY: &NodeSpec = &NODES[2];

/// The ports of each Service: name, number, protocol.
const PORTS: [(&str, u16, &str); 4] =
    [("tcp", PORT, "TCP"), ("sink", SINK, "TCP"), ("drain", DRAIN, "UDP"), ("udp", PORT, "UDP")];

/// How long a change may take to show.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// To the pod's address, by bare routing: no proxy, no Service, no rule.
    Direct,
    /// The real kube-proxy in this mode.
    KubeProxy(&'static str),
    /// Ours, with or without the socket hooks.
    Ours {
        /// Whether a connection gets its backend at `connect`.
        socket_lb: bool,
    },
    /// Ours, with every packet between nodes in an IP packet.
    Tunnel,
    /// Ours, with XDP on the uplinks in this mode: measured where packets only pass through a node.
    Xdp(&'static str),
}

impl Variant {
    /// All that are compared, the baselines first.
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::KubeProxy("iptables"),
        Self::KubeProxy("nftables"),
        Self::Ours { socket_lb: true },
        Self::Ours { socket_lb: false },
        Self::Tunnel,
        Self::Xdp("generic"),
        Self::Xdp("native"),
    ];

    /// Its name in tables and plots.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::KubeProxy("nftables") => "kube-proxy nftables",
            Self::KubeProxy(_) => "kube-proxy iptables",
            Self::Ours { socket_lb: true } => "datapath",
            Self::Ours { socket_lb: false } => "datapath, tc alone",
            Self::Tunnel => "datapath, IP in IP",
            Self::Xdp("native") => "datapath, XDP native",
            Self::Xdp(_) => "datapath, XDP generic",
        }
    }

    /// The proxy that runs on its nodes.
    pub const fn proxy(self) -> Option<Proxy> {
        match self {
            Self::Direct => None,
            Self::KubeProxy(mode) => Some(Proxy::KubeProxy(mode)),
            Self::Ours { socket_lb } => Some(Proxy::datapath(socket_lb, "native")),
            Self::Tunnel => Some(Proxy::datapath(true, "ipip")),
            Self::Xdp(xdp) => Some(Proxy::Datapath { socket_lb: true, routing: "native", xdp }),
        }
    }

    /// Whether its cluster has an API server, and so can have many Services.
    pub const fn has_api(self) -> bool {
        !matches!(self, Self::Direct | Self::Tunnel | Self::Xdp(_))
    }
}

impl Serialize for Variant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// A pod.
    Pod,
    /// A machine outside of the cluster.
    Outside,
    /// Nobody: frames come to a node by its wire, and leave it by its wire.
    Wire,
}

/// Whose address is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The Service's own: by [`Variant::Direct`] the pod's.
    ClusterIp,
    /// That of the last of many Services.
    Last,
    /// The pod's, whatever proxy runs.
    Pod,
    /// A port of the client's node, or of a node for a client from outside.
    NodePort,
}

/// Where the server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    /// On the node that the client is on, or whose port it dials.
    Near,
    /// On another node.
    Far,
}

/// A cluster with its load.
#[derive(Debug)]
pub struct Cluster {
    /// What it is for.
    pub variant: Variant,
    /// The cluster itself.
    pub lab: Lab,
    /// The address of the last of many Services.
    pub last: SocketAddr,
    pod: Load,
    outside: Load,
    wire: Load,
    cpus: Cpus,
    servers: [Destination; 2],
}

/// A server with the Service before it.
#[derive(Debug)]
struct Destination {
    pod: IpAddr,
    service: Option<Service>,
    _load: Load,
}

impl Cluster {
    /// Makes the cluster of a variant. Its load stays on the CPU on which is measured, and all else
    /// away from there.
    pub fn up(variant: Variant, cpus: Cpus) -> Result<Self> {
        let cpu = cpus.measured;
        let mut builder = Lab::builder();
        if !variant.has_api() {
            builder = builder.source_mode();
        }
        let lab = builder.up()?;
        let spec = |name, node| PodSpec::new(name, node, name).serving(&[]);
        lab.create_pods(vec![spec("client", HOME), spec("near", HOME), spec("far", AWAY)])?;
        if let Some(proxy) = variant.proxy() {
            lab.start_proxies(proxy)?;
        }
        cpus.keep_off(&host::lab_cgroup(lab.id())?);
        let servers =
            [destination(&lab, variant, "near", cpu)?, destination(&lab, variant, "far", cpu)?];
        let pod = Load::start(load(&lab.pod("client")?.space)?, cpu)?;
        let outside = Load::start(load(&*lab.space(OUTSIDE)?)?, cpu)?;
        let wire = Load::start(load(&lab.node(HOME.name)?.space)?, cpu)?;
        let mut cluster = Self { variant, lab, last: NOWHERE, pod, outside, wire, cpus, servers };
        for server in [Server::Near, Server::Far] {
            let to = cluster.address(Way::ClusterIp, server, PORT)?;
            cluster.wait(to, true)?;
        }
        Ok(cluster)
    }

    /// The node of the client.
    pub fn home(&self) -> Result<&Node> {
        self.lab.node(HOME.name)
    }

    /// Ends the proxies of all nodes but the client's. What they have set up stays and works; what they
    /// would do for Services that nobody dials there would only slow down the one that is measured.
    pub fn end_other_proxies(&self) -> Result<()> {
        let mut others = self.lab.nodes().iter().filter(|node| node.spec.name != HOME.name);
        others.try_for_each(|node| self.lab.take_proxy(node)?.stop())
    }

    /// Ends the proxy of the client's node, if it runs, with whatever it has started that is still at work.
    pub fn end_proxy(&self) -> Result<()> {
        let node = self.home()?;
        if let Ok(proxy) = self.lab.take_proxy(node) {
            proxy.stop()?;
        }
        host::end_processes(&node.system_cgroup())
    }

    /// Does work that is not measured by how long packets take: everything but a proxy that is started
    /// meanwhile has all CPUs.
    pub fn at_large<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let cgroup = host::lab_cgroup(self.lab.id())?;
        self.cpus.let_run(&cgroup);
        let done = work(self);
        self.cpus.keep_off(&cgroup);
        done
    }

    /// The address of a server's pod.
    pub fn pod_address(&self, server: Server) -> IpAddr {
        self.servers[server as usize].pod
    }

    /// Waits until a pod can connect, or until it cannot, but no longer than usual.
    pub fn wait(&mut self, to: SocketAddr, open: bool) -> Result<()> {
        self.wait_long(to, open, PATIENCE)
    }

    /// Waits until a pod can connect, or until it cannot, but no longer than this.
    pub fn wait_long(&mut self, to: SocketAddr, open: bool, patience: Duration) -> Result<()> {
        self.pod.order(&Order::Await { to, open, patience })?.done()
    }

    /// Makes a change, and waits until a pod can connect because of it. How long that took, with the
    /// change itself.
    pub fn wait_after(
        &mut self,
        to: SocketAddr,
        change: impl FnOnce(&Lab) -> Result<()>,
    ) -> Result<Duration> {
        self.pod.send(&Order::Await { to, open: true, patience: PATIENCE })?;
        let begin = Instant::now();
        let changed = change(&self.lab);
        let answer = self.pod.receive()?;
        let took = begin.elapsed();
        changed?;
        answer.done()?;
        Ok(took)
    }
}

impl Side for Cluster {
    fn variant(&self) -> Variant {
        self.variant
    }

    fn address(&self, way: Way, server: Server, port: u16) -> Result<SocketAddr> {
        let server = &self.servers[server as usize];
        let pod = SocketAddr::new(server.pod, port);
        Ok(match (way, &server.service) {
            (Way::Pod, _) | (Way::ClusterIp, None) => pod,
            (Way::Last, _) => self.last,
            (Way::ClusterIp, Some(service)) => service.at(Family::V4, port)?,
            (Way::NodePort, Some(service)) => {
                let index = PORTS.iter().position(|(_, number, _)| *number == port);
                let port = service.node_port(index.context("no such port")?)?;
                SocketAddr::new(HOME.address().v4.into(), port)
            }
            (Way::NodePort, None) => bail!("{} has no node ports", self.variant.name()),
        })
    }

    fn work(&mut self, client: Client, work: Work) -> Result<Report> {
        let home = self.lab.node(HOME.name)?;
        let load = match client {
            Client::Pod => &mut self.pod,
            Client::Outside => &mut self.outside,
            Client::Wire => &mut self.wire,
        };
        let answer = if client == Client::Wire {
            self.lab.refuse_from(home, true)?;
            let answer = load.order(&Order::Work(work));
            self.lab.refuse_from(home, false)?;
            answer
        } else {
            load.order(&Order::Work(work))
        };
        answer?.report()
    }
}

fn destination(lab: &Lab, variant: Variant, name: &str, cpu: usize) -> Result<Destination> {
    let pod = lab.pod(name)?;
    let load = Load::serve(load(&pod.space)?, cpu).context(name.to_owned())?;
    let service = variant.proxy().map(|_| lab.create_service(name, &spec(name))).transpose()?;
    Ok(Destination { pod: pod.address.get(Family::V4), service, _load: load })
}

fn spec(app: &str) -> serde_json::Value {
    let ports = PORTS.map(|(name, port, protocol)| {
        json!({"name": name, "port": port, "targetPort": port, "protocol": protocol})
    });
    json!({"type": "NodePort", "selector": {"app": app}, "ports": ports})
}

/// The command that runs the load in a namespace.
fn load(space: &Space) -> Result<Command> {
    space.command(env::current_exe()?.with_file_name("bench-load"))
}

//! `lab`: the lab for people.

use crate::{
    Lab, host,
    manifest::HOST_POD_PORT,
    proxy::Kind,
    service::{Service, web, web_ports},
    state::State,
    topology::{ALONE, CALICO, MYK8S, Topology, Wiring},
    tour,
};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, ValueEnum};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, dup2_stderr, dup2_stdout},
};
use serde_json::json;
use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _, stdout},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// How long `down` waits.
const GRACE: Duration = Duration::from_secs(15);

/// A Kubernetes cluster made of network namespaces.
#[derive(Debug, Parser)]
#[command(name = "lab")]
pub enum Cli {
    /// Start a cluster that stays up in the background.
    Up(Shape),
    /// Take it down.
    Down(Which),
    /// Show what runs.
    Status(Which),
    /// Run a command on a node or in a pod.
    Exec {
        /// Which lab.
        #[command(flatten)]
        which: Which,
        /// Node, pod, `mypc` or `bridge`.
        place: String,
        /// Program and arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start a cluster, show what it does, and stay with live figures until Ctrl-C.
    Tour {
        /// What it is to be.
        #[command(flatten)]
        shape: Shape,
        /// End after the tour; the exit code says whether all of it was as it must be.
        #[arg(long)]
        once: bool,
    },
    /// What `up` leaves in the background.
    #[command(hide = true)]
    Supervise(Shape),
}

/// Which lab, where several run.
#[derive(Debug, Args)]
pub struct Which {
    /// Id of the lab.
    #[arg(long)]
    lab: Option<String>,
}

/// Who does the Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    /// The agent of this project.
    Datapath,
    /// kube-proxy in iptables mode.
    Iptables,
    /// kube-proxy in nftables mode.
    Nftables,
    /// Nobody.
    None,
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Which reference cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cluster {
    /// The kind cluster: one network.
    Myk8s,
    /// The same without a CNI: pods are connected as the agent says.
    #[value(name = "myk8s-alone")]
    Alone,
    /// Calico's IPIP cluster: two networks and a router.
    Calico,
}

impl Cluster {
    fn topology(self) -> &'static Topology {
        match self {
            Self::Myk8s => &MYK8S,
            Self::Alone => &ALONE,
            Self::Calico => &CALICO,
        }
    }
}

/// Who routes to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Routing {
    /// The agent, straight.
    Native,
    /// The agent, wrapped in IP.
    Ipip,
    /// The agent, wrapped between subnets.
    CrossSubnet,
    /// The agent, as the nodes are connected.
    Auto,
    /// The node's own routes.
    None,
}

impl Routing {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ipip => "ipip",
            Self::CrossSubnet => "cross-subnet",
            Self::Auto => "auto",
            Self::None => "none",
        }
    }
}

/// What the agent's `--xdp` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Xdp {
    /// No XDP.
    Off,
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
}

impl Xdp {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What the cluster is to be.
#[derive(Debug, Args)]
pub struct Shape {
    /// Which cluster.
    #[arg(long, value_enum, default_value_t = Cluster::Myk8s)]
    cluster: Cluster,
    /// Pods on each node.
    #[arg(long, default_value_t = 2)]
    pods: u8,
    /// Who does the Services.
    #[arg(long, value_enum, default_value_t = Who::Datapath)]
    proxy: Who,
    /// Whether the socket hooks are used.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    socket_lb: Switch,
    /// Who routes to pods; unless told otherwise the agent, wrapped where the cluster has two
    /// networks.
    #[arg(long, value_enum)]
    routing: Option<Routing>,
    /// Whether frames that only pass through are turned round at the uplinks (XDP).
    #[arg(long, value_enum, default_value_t = Xdp::Off)]
    xdp: Xdp,
    /// No control plane: the agents read files.
    #[arg(long)]
    source: bool,
}

impl Shape {
    /// The proxy, unless there is to be none.
    fn kind(&self) -> Option<Kind> {
        match self.proxy {
            Who::Datapath => Some(Kind::Datapath {
                socket_lb: self.socket_lb == Switch::On,
                routing: self.routing().name(),
                xdp: self.xdp.name(),
            }),
            Who::Iptables => Some(Kind::KubeProxy("iptables")),
            Who::Nftables => Some(Kind::KubeProxy("nftables")),
            Who::None => None,
        }
    }

    fn routing(&self) -> Routing {
        let default = match self.cluster {
            Cluster::Myk8s => Routing::Native,
            Cluster::Alone => Routing::Auto,
            Cluster::Calico => Routing::Ipip,
        };
        self.routing.unwrap_or(default)
    }

    /// Makes the cluster with the Services `web` and `host`.
    fn up(&self) -> Result<(Lab, Service)> {
        let topology = self.cluster.topology();
        let mut builder = Lab::builder().topology(topology).pods_per_node(self.pods).host_pods();
        if self.source {
            builder = builder.source_mode();
        }
        let early = topology.wiring == Wiring::Agent;
        if early {
            let kind = self.kind().filter(|kind| kind.is_datapath());
            builder = builder.proxies(kind.context("pods of this cluster need our agent")?);
        }
        let lab = builder.up()?;
        if self.cluster == Cluster::Calico {
            lab.create_pods(tour::pods(topology))?;
        }
        if let Some(kind) = self.kind().filter(|_| !early) {
            lab.start_proxies(kind)?;
        }
        let service = lab.create_service("web", &web("web"))?;
        let ports = web_ports(HOST_POD_PORT);
        lab.create_service("host", &json!({"selector": {"app": "host"}, "ports": ports}))?;
        Ok((lab, service))
    }

    /// The arguments that give this shape.
    fn arguments(&self) -> Vec<String> {
        fn name(value: &impl ValueEnum) -> String {
            value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
        }
        let Self { cluster, pods, proxy, socket_lb, routing: _, xdp, source } = self;
        let mut arguments = vec![
            format!("--cluster={}", name(cluster)),
            format!("--pods={pods}"),
            format!("--proxy={}", name(proxy)),
            format!("--socket-lb={}", name(socket_lb)),
            format!("--routing={}", self.routing().name()),
            format!("--xdp={}", xdp.name()),
        ];
        if *source {
            arguments.push("--source".to_owned());
        }
        arguments
    }
}

/// Runs the command line.
pub fn run(cli: Cli) -> Result<()> {
    match cli {
        Cli::Up(shape) => up(&shape),
        Cli::Down(which) => down(&State::find(which.lab.as_deref())?),
        Cli::Status(which) => status(&State::find(which.lab.as_deref())?),
        Cli::Exec { which, place, command } => {
            let error = State::find(which.lab.as_deref())?.command(&place, &command)?.exec();
            Err(error).context("run the command")
        }
        Cli::Tour { shape, once } => {
            let start = Instant::now();
            let (lab, web) = shape.up()?;
            say(&format!("The lab is up after {:.1} s.\n", start.elapsed().as_secs_f64()))?;
            let kind = shape.kind();
            let result = tour::show(&lab, kind, &web)
                .and_then(|()| if once { Ok(()) } else { tour::live(&lab, kind, &web) });
            lab.down()?;
            result
        }
        Cli::Supervise(shape) => supervise(&shape),
    }
}

/// Writes to standard output.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn up(shape: &Shape) -> Result<()> {
    if let Some(reason) = host::missing() {
        bail!(reason);
    }
    let start = Instant::now();
    let mut child = Command::new(env::current_exe()?)
        .arg("supervise")
        .args(shape.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("start the supervisor")?;
    let output = child.stdout.take().context("no standard output")?;
    let mut id = String::new();
    BufReader::new(output).read_line(&mut id)?;
    if id.trim().is_empty() {
        let mut problem = String::new();
        child.stderr.take().context("no standard error")?.read_to_string(&mut problem)?;
        bail!("the lab did not start: {}", problem.trim());
    }
    let seconds = start.elapsed().as_secs_f64();
    say(&format!("lab {} is up after {seconds:.1} s", id.trim()))?;
    status(&State::find(Some(id.trim()))?)
}

/// Keeps a lab until it is told to end.
fn supervise(shape: &Shape) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything exists that would have to be cleared up.
    let mut stop = runtime.block_on(async { signal(SignalKind::terminate()) })?;
    let (lab, _web) = shape.up()?;
    say(lab.id())?;
    // Nobody reads the pipes of `up` any more.
    let log = File::options().append(true).create(true).open(lab.folder().join("lab.log"))?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    runtime.block_on(stop.recv());
    lab.down()
}

fn down(state: &State) -> Result<()> {
    let start = Instant::now();
    kill(Pid::from_raw(state.owner.cast_signed()), Signal::SIGTERM).context("end the lab")?;
    while state.folder().exists() {
        if start.elapsed() > GRACE {
            bail!("lab {} does not end: see {}", state.id, state.folder().display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    say(&format!("lab {} is down after {:.1} s", state.id, start.elapsed().as_secs_f64()))
}

fn status(state: &State) -> Result<()> {
    say(&format!("{:<24} {:<8} {:<22} {}", "NAME", "PID", "NODE", "ADDRESSES"))?;
    for (name, place) in &state.places {
        let node = place.node.as_deref().unwrap_or("-");
        say(&format!("{name:<24} {:<8} {node:<22} {}", place.pid, place.addresses.join(" ")))?;
    }
    Ok(())
}

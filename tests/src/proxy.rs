//! The Service proxy of a node: our agent, or the real kube-proxy as the oracle.

use crate::{
    host,
    lab::Node,
    space::Space,
    topology::{ALONE, CALICO, MYK8S, Topology, Wiring},
};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    env, fs,
    fs::File,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Where the proxies answer for their health.
const HEALTH_PORT: u16 = 10_256;
/// `--xdp` where there is none.
const OFF: &str = "off";
/// How long a proxy may take to become healthy.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a proxy may take to end when asked.
const GRACE: Duration = Duration::from_secs(5);

/// Who does the Services of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our agent.
    Datapath {
        /// Whether the socket hooks are on.
        socket_lb: bool,
        /// Who routes between pods: what `--routing` says.
        routing: &'static str,
        /// What `--xdp` says.
        xdp: &'static str,
    },
    /// kube-proxy in the mode of this name: `iptables` or `nftables`.
    KubeProxy(&'static str),
}

impl Kind {
    /// Our agent in each of its modes in `myk8s`.
    pub const MODES: [Self; 4] = [
        Self::datapath(true, "native"),
        Self::datapath(false, "native"),
        Self::datapath(true, "none"),
        Self::datapath(false, "none"),
    ];
    /// Its modes where the pods' network is its own too.
    pub const ALONE: [Self; 2] = [Self::datapath(true, "auto"), Self::datapath(false, "auto")];
    /// Its modes between subnets, in Calico's cluster.
    pub const TUNNELS: [Self; 4] = [
        Self::datapath(true, "ipip"),
        Self::datapath(false, "cross-subnet"),
        Self::datapath(false, "ipip"),
        Self::datapath(true, "cross-subnet"),
    ];

    /// The cluster that it is for.
    pub fn topology(self) -> &'static Topology {
        if Self::TUNNELS.contains(&self) {
            &CALICO
        } else if Self::ALONE.contains(&self) {
            &ALONE
        } else {
            &MYK8S
        }
    }

    /// Ours, without XDP.
    pub const fn datapath(socket_lb: bool, routing: &'static str) -> Self {
        Self::Datapath { socket_lb, routing, xdp: OFF }
    }

    /// Whether it sees frames before the kernel makes packets of them.
    pub fn has_xdp(self) -> bool {
        matches!(self, Self::Datapath { xdp, .. } if xdp != OFF)
    }

    /// Whether it is ours.
    pub fn is_datapath(self) -> bool {
        matches!(self, Self::Datapath { .. })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Datapath { socket_lb, routing, xdp } => {
                write!(f, "{}-{routing}", if *socket_lb { "socket" } else { "tc" })?;
                if *xdp == OFF { Ok(()) } else { write!(f, "-xdp-{xdp}") }
            }
            Self::KubeProxy(mode) => write!(f, "kube-proxy-{mode}"),
        }
    }
}

/// Where the objects come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The API server, with these credentials.
    Kubeconfig(PathBuf),
    /// A folder of files.
    Source(PathBuf),
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    kind: Kind,
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// Starts a proxy on a node; [`Proxy::wait_healthy`] tells when it serves.
    /// `flags` are added to the usual ones, or take their place; one without value takes it away.
    pub fn start(node: &Node, kind: Kind, origin: &Origin, flags: &[String]) -> Result<Self> {
        let log = node.folder.join("proxy.log");
        let output = File::options().append(true).create(true).open(&log)?;
        let mut command = match kind {
            Kind::Datapath { socket_lb, routing, xdp } => {
                let mut command = agent(node, origin)?;
                command.arg(if socket_lb { "--socket-lb=on" } else { "--socket-lb=off" });
                command.arg(format!("--routing={routing}"));
                command.arg(format!("--xdp={xdp}"));
                command
            }
            Kind::KubeProxy(mode) => kube_proxy(node, mode, origin, flags)?,
        };
        let child = command
            .args(flags.iter().filter(|flag| !flag.ends_with('=')))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {kind}"))?;
        Ok(Self { kind, child, log })
    }

    /// Which proxy this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it has not ended by itself.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is healthy.
    pub fn wait_healthy(&mut self, space: &Space) -> Result<()> {
        let to = ([127, 0, 0, 1], HEALTH_PORT).into();
        let deadline = Instant::now() + PATIENCE;
        while space.http(to, "/healthz")?.answer().is_none() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}): {}", self.kind, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{} does not become healthy: {}", self.kind, self.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the proxy")?;
        self.child.wait().context("wait for the proxy")?;
        Ok(())
    }

    /// Asks it to end and waits.
    pub fn stop(mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let deadline = Instant::now() + GRACE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} ignores SIGTERM", self.kind);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The end of what it logged.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The binary `datapath`: named by `DATAPATH_BIN`, or in the folder where cargo puts `lab-pod`.
pub fn datapath_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("DATAPATH_BIN") {
        return Ok(path.into());
    }
    let path = host::pod_binary()?.with_file_name("datapath");
    ensure!(path.exists(), "{} does not exist: run `cargo xtask build`", path.display());
    Ok(path)
}

/// A command of our command line on a node, with the node's own folders.
pub fn datapath(node: &Node, arguments: &[&str]) -> Result<Command> {
    let mut command = node.space.command_in(&node.system_cgroup(), datapath_binary()?)?;
    command.args(arguments).arg("--bpffs").arg(node.pins());
    command.env("DATAPATH_STATE_DIR", node.state_dir());
    command.env("DATAPATH_CNI_CONF_DIR", node.cni_conf_dir());
    Ok(command)
}

/// Packets and bytes through the tunnels of a node to another one, and from there.
pub fn tunnel_counters(node: &Node, there: Ipv4Addr) -> Result<[u64; 4]> {
    let output = datapath(node, &["route", "list", "-o", "json"])?.output()?;
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let row = rows.iter().find(|row| row["tunnel"].is_object() && row["via"] == there.to_string());
    let number = |name| row.and_then(|row| row["tunnel"][name].as_u64()).unwrap_or_default();
    Ok(["sentPackets", "sentBytes", "receivedPackets", "receivedBytes"].map(number))
}

fn agent(node: &Node, origin: &Origin) -> Result<Command> {
    let mut command = datapath(node, &["agent"])?;
    command.args(["--node-name", node.spec.name]);
    command.arg("--cgroup-root").arg(&node.cgroup);
    command.arg("--cni-data-dir").arg(node.cni_data_dir());
    if node.topology.wiring == Wiring::Agent {
        command.arg("--cni=on");
    }
    match origin {
        Origin::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
        Origin::Source(folder) => command.arg("--source").arg(folder),
    };
    Ok(command)
}

fn kube_proxy(node: &Node, mode: &str, origin: &Origin, flags: &[String]) -> Result<Command> {
    let Origin::Kubeconfig(kubeconfig) = origin else {
        bail!("kube-proxy needs the control plane");
    };
    let program = crate::control::programs()?.join("kube-proxy");
    let mut command = node.space.command_in(&node.system_cgroup(), program)?;
    command
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--proxy-mode={mode}"))
        .arg(format!("--hostname-override={}", node.spec.name))
        .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
        .arg("--iptables-min-sync-period=10ms");
    let ranges = node.topology.pod_ranges.join(",");
    for (name, value) in [("--cluster-cidr=", &*ranges), ("--nodeport-addresses=", "primary")] {
        if !flags.iter().any(|flag| flag.starts_with(name)) {
            command.arg(format!("{name}{value}"));
        }
    }
    Ok(command)
}

/// Takes away what a proxy left on a node.
pub fn clean(node: &Node, kind: Kind) -> Result<()> {
    match kind {
        Kind::Datapath { .. } => {
            let output = datapath(node, &["cleanup"])?.output()?;
            let problem = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "cleanup on {}: {problem}", node.spec.name);
        }
        Kind::KubeProxy(_) => {
            node.space.output("nft", &["flush", "ruleset"])?;
        }
    }
    Ok(())
}

//! The command line. Every flag of `agent` can come from the environment too.

use crate::{
    agent::{self, KernelSettings, Objects},
    datapath,
    k8s::{Access, SavedServers},
    plan::{NodePortAddresses, Routing, Settings},
    show::{FlowFilter, Format, Show},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// kube-proxy and pod routing in eBPF.
#[derive(Debug, Parser)]
#[command(name = "datapath", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Translate and route on this node.
    Agent(Box<AgentArgs>),
    /// What runs, and how well.
    Status(ShowArgs),
    /// Services of this node's datapath.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Connections that tc translates.
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Where pod addresses go.
    #[command(subcommand)]
    Route(ListCommand),
    /// Maps: type, entries, size and fill.
    #[command(subcommand)]
    Map(ListCommand),
    /// Remove every program, link, map and file of ours from this node.
    Cleanup(CleanupArgs),
    /// Mount the BPF file system where there is none.
    MountBpffs(BpffsArgs),
    /// Version of the program and of its maps.
    Version,
}

/// `datapath service ...`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// All Services, with their traffic.
    List(ShowArgs),
    /// One Service, with its frontends and backends.
    Show {
        /// Namespace and name.
        #[arg(value_name = "NS/NAME")]
        name: String,
        /// How to print.
        #[command(flatten)]
        show: ShowArgs,
    },
}

/// `datapath flow ...`.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Flows, the last used first.
    List {
        /// Only flows of this Service.
        #[arg(long, value_name = "NS/NAME")]
        service: Option<String>,
        /// Only flows with this address on any side.
        #[arg(long)]
        address: Option<IpAddr>,
        /// At most so many; 0 for all.
        #[arg(long, default_value_t = 0)]
        limit: usize,
        /// How to print.
        #[command(flatten)]
        show: ShowArgs,
    },
}

/// `datapath route ...` and `datapath map ...`.
#[derive(Debug, Subcommand)]
pub enum ListCommand {
    /// All of them.
    List(ShowArgs),
}

/// Where the pins are.
#[derive(Clone, Debug, Args)]
pub struct BpffsArgs {
    /// Folder of our pins on a BPF file system.
    #[arg(long, env = "DATAPATH_BPFFS", default_value = "/sys/fs/bpf/datapath")]
    pub bpffs: PathBuf,
}

/// Where to read and how to print.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,
    /// Tables for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl ShowArgs {
    /// In the reader's own terms.
    pub fn show(&self) -> Show {
        let format = match self.output {
            Output::Table => Format::Table,
            Output::Json => Format::Json,
        };
        Show { bpffs: self.bpffs.bpffs.clone(), format }
    }
}

impl FlowCommand {
    /// Which flows, and how to print them.
    pub fn filter(self) -> (FlowFilter, Show) {
        let Self::List { service, address, limit, show } = self;
        (FlowFilter { service, address, limit }, show.show())
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What to clean up.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,
    /// Where the agent remembered things.
    #[arg(long, env = "DATAPATH_STATE_DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
}

impl CleanupArgs {
    /// In the kernel side's own terms.
    pub fn options(&self) -> datapath::Options {
        datapath::Options { bpffs: self.bpffs.bpffs.clone(), ..datapath::Options::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// How to print logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `datapath agent`.
#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub struct AgentArgs {
    /// This node's name in the cluster; else `$NODE_NAME`, else the host's name.
    #[arg(long, env = "DATAPATH_NODE_NAME")]
    node_name: Option<String>,
    /// How to reach the API server; else the pod's service account, else the kubelet's file.
    #[arg(long, value_name = "FILE", env = "DATAPATH_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// URLs of the API server, tried in order before those that are found.
    #[arg(long, value_name = "URL", env = "DATAPATH_API_SERVER", value_delimiter = ',')]
    api_server: Vec<String>,
    /// The kubelet's configuration, for the address of the API server.
    #[arg(
        long,
        value_name = "FILE",
        env = "DATAPATH_KUBELET_CONFIG",
        default_value = "/etc/kubernetes/kubelet.conf"
    )]
    kubelet_config: PathBuf,
    /// A folder of Services, EndpointSlices and Nodes in place of an API server.
    #[arg(long, value_name = "DIR", env = "DATAPATH_SOURCE")]
    source: Option<PathBuf>,
    /// Folder of a cgroup2 hierarchy for the socket hooks; else the node's cgroup2 mount.
    #[arg(long, value_name = "DIR", env = "DATAPATH_CGROUP_ROOT")]
    cgroup_root: Option<PathBuf>,
    #[command(flatten)]
    bpffs: BpffsArgs,
    /// What is remembered across restarts.
    #[arg(long, value_name = "DIR", env = "DATAPATH_STATE_DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Devices towards the other nodes; else those with the node's addresses.
    #[arg(long, value_name = "NAME", env = "DATAPATH_DEVICE", value_delimiter = ',')]
    device: Vec<String>,
    /// Ranges whose addresses count as pods; else the podCIDRs of all Nodes.
    #[arg(long, value_name = "CIDR", env = "DATAPATH_CLUSTER_CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// Who carries packets between pods: the cluster's own network (none), we (native), or we
    /// where the node routes a node's pods straight to that node (auto).
    #[arg(long, value_name = "none|native|auto", env = "DATAPATH_ROUTING", default_value = "auto")]
    routing: Routing,
    /// Translate at the sockets of this node's processes too, not by tc alone.
    #[arg(long, value_enum, env = "DATAPATH_SOCKET_LB", default_value = "on")]
    socket_lb: Switch,
    /// Addresses of the node that serve node ports: primary, all, or ranges.
    #[arg(
        long,
        value_name = "primary|all|CIDR[,CIDR]",
        env = "DATAPATH_NODEPORT_ADDRESSES",
        default_value = "primary"
    )]
    nodeport_addresses: NodePortAddresses,
    /// Replace the source address of everything sent to a cluster address.
    #[arg(long, env = "DATAPATH_MASQUERADE_ALL")]
    masquerade_all: bool,
    /// Source ports given to flows whose source address is replaced.
    #[arg(
        long,
        value_name = "FIRST-LAST",
        env = "DATAPATH_MASQUERADE_PORTS",
        default_value = "61000-65535"
    )]
    masquerade_ports: PortRange,
    /// Handle only Services whose label service.kubernetes.io/service-proxy-name is this; else
    /// only those without the label.
    #[arg(long, value_name = "NAME", env = "DATAPATH_SERVICE_PROXY_NAME")]
    service_proxy_name: Option<String>,
    /// Where /healthz and /livez are served; empty for nowhere.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "DATAPATH_HEALTHZ_BIND_ADDRESS",
        default_value = "0.0.0.0:10256"
    )]
    healthz_bind_address: BindAddress,
    /// Where /metrics and /proxyMode are served; empty for nowhere.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "DATAPATH_METRICS_BIND_ADDRESS",
        default_value = "127.0.0.1:10249"
    )]
    metrics_bind_address: BindAddress,
    /// How logs are printed.
    #[arg(long, value_enum, env = "DATAPATH_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Print the kernel programs' own log (they must have been built with it).
    #[arg(long, env = "DATAPATH_LOG_DATAPATH")]
    log_datapath: bool,
    /// Attach with clsact filters even where the kernel has tcx links.
    #[arg(long, env = "DATAPATH_FORCE_CLSACT")]
    force_clsact: bool,
    /// The `DaemonSet` that we are part of: when it is gone, an agent that is told to end removes
    /// everything from its node.
    #[arg(long, value_name = "NAME", env = "DATAPATH_DAEMONSET")]
    daemonset: Option<String>,
}

impl AgentArgs {
    /// In the agent's own terms.
    pub fn options(self) -> agent::Options {
        let saved = SavedServers::new(&self.state_dir);
        let mut plan = Settings::new(&node_name(self.node_name));
        plan.proxy_name = self.service_proxy_name;
        plan.masquerade_all = self.masquerade_all;
        plan.cluster_cidrs = self.cluster_cidr.iter().map(IpNet::trunc).collect();
        plan.routing = self.routing;
        plan.node_port_addresses = self.nodeport_addresses;
        let access = Access {
            servers: self.api_server.into_iter().filter(|url| !url.is_empty()).collect(),
            kubeconfig: self.kubeconfig,
            kubelet_config: self.kubelet_config,
            saved: Some(saved.clone()),
        };
        let socket_lb = self.socket_lb == Switch::On;
        agent::Options {
            objects: self.source.map_or(Objects::Server(access), Objects::Folder),
            saved: Some(saved),
            plan,
            datapath: datapath::Options {
                bpffs: self.bpffs.bpffs,
                cgroup_root: self.cgroup_root,
                socket_lb,
                log_datapath: self.log_datapath,
                force_clsact: self.force_clsact,
                ..datapath::Options::default()
            },
            kernel: KernelSettings {
                devices: self.device.into_iter().filter(|name| !name.is_empty()).collect(),
                socket_lb,
                host_netns: 0,
                ports: (self.masquerade_ports.first, self.masquerade_ports.last),
            },
            health_address: self.healthz_bind_address.0,
            metrics_address: self.metrics_bind_address.0,
            daemonset: self.daemonset.filter(|name| !name.is_empty()),
            state_dir: self.state_dir,
        }
    }
}

/// This node's name as kube-proxy would find it.
fn node_name(given: Option<String>) -> String {
    given
        .or_else(|| std::env::var("NODE_NAME").ok())
        .filter(|name| !name.is_empty())
        .or_else(|| nix::unistd::gethostname().ok()?.into_string().ok())
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug)]
struct BindAddress(Option<SocketAddr>);

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|error| format!("{error}: give ADDRESS:PORT"))?;
        Ok(Self(Some(address)))
    }
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug)]
struct PortRange {
    first: u16,
    last: u16,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (0 < first && first <= last).then_some(Self { first, last })
        };
        read().ok_or_else(|| "not of the form FIRST-LAST".to_owned())
    }
}

const STATE_DIR: &str = "/run/datapath";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn options(args: &[&str]) -> agent::Options {
        let args = ["datapath", "agent"].iter().chain(args);
        match Cli::try_parse_from(args).expect("arguments").command {
            Command::Agent(args) => args.options(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_reach_the_agent() {
        let options = options(&[
            "--node-name=N1",
            "--source=/objects",
            "--cluster-cidr=10.10.0.0/16,fd00::/48",
            "--routing=native",
            "--socket-lb=off",
            "--healthz-bind-address=",
            "--nodeport-addresses=all",
            "--masquerade-ports=40000-40010",
            "--device=eth0,eth1",
        ]);
        assert_eq!(options.plan.node.name(), "n1");
        assert!(matches!(options.objects, Objects::Folder(_)));
        assert_eq!(options.plan.cluster_cidrs.len(), 2);
        assert_eq!(options.plan.routing, Routing::Native);
        assert_eq!(options.plan.node_port_addresses, NodePortAddresses::All);
        assert!(!options.datapath.socket_lb && options.health_address.is_none());
        assert_eq!(options.kernel.ports, (40000, 40010));
        assert_eq!(options.kernel.devices, ["eth0", "eth1"]);
    }

    #[test]
    fn wrong_values_are_refused() {
        for args in ["--routing=some", "--masquerade-ports=9-1", "--nodeport-addresses=eth0"] {
            assert!(Cli::try_parse_from(["datapath", "agent", args]).is_err(), "{args}");
        }
    }
}

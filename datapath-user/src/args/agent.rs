//! `datapath agent`.

use super::{
    BpffsArgs, STATE_DIR,
    values::{BindAddress, LogFormat, PortRange, Switch},
};
use crate::{
    agent::{self, KernelSettings, Objects},
    datapath,
    k8s::{Access, SavedServers},
    plan::{NodePortAddresses, Routing, Settings},
};
use clap::Args;
use ipnet::IpNet;
use std::path::PathBuf;

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
    /// Source ports given to flows whose source address is replaced: by default those that neither
    /// the node's own connections nor node ports have.
    #[arg(
        long,
        value_name = "FIRST-LAST",
        env = "DATAPATH_MASQUERADE_PORTS",
        default_value = "1024-29999"
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

//! `datapath agent`.

use super::{
    BpffsArgs, CniConfDirArgs, STATE_DIR,
    values::{MapEntries, Switch},
};
use crate::{
    agent::{self, CniOptions, KernelSettings, Objects},
    config::{self, LogFormat, ProxyConfig, Remark},
    datapath::{self, Xdp},
    k8s::{Access, SavedServers},
    model::{Algorithm, Forwarding},
    node::{self, PortRange},
    plan::{MasqueradeOutside, Routing, Settings},
};
use clap::Args;
use ipnet::IpNet;
use std::path::{Path, PathBuf};

/// `datapath agent`.
#[derive(Debug, Args)]
#[command(next_line_help = true)]
pub struct AgentArgs {
    /// kube-proxy's own configuration file (`KubeProxyConfiguration`); what is given here counts
    /// more. Without the flag the file that kube-proxy's DaemonSet mounts, where there is one.
    #[arg(long, value_name = "FILE", env = "DATAPATH_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    proxy: ProxyConfig,
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
    /// Who carries packets between pods: the cluster's own network (none), or we: straight (native),
    /// wrapped in IP (ipip), wrapped to nodes outside of this node's subnet (cross-subnet). auto:
    /// beside another CNI, we do where the node routes a node's pods straight to that node; with
    /// --cni=on native where all nodes share a subnet, else cross-subnet.
    #[arg(long, value_name = "MODE", env = "DATAPATH_ROUTING", default_value = "auto")]
    routing: Routing,
    /// Whether the node's pod network is ours: then the container runtime is told to connect pods by
    /// the plugins ptp and host-local, with addresses of the Node's podCIDRs.
    #[arg(long, value_enum, env = "DATAPATH_CNI", default_value = "off")]
    cni: Switch,
    #[command(flatten)]
    cni_conf_dir: CniConfDirArgs,
    /// Where the plugin host-local keeps the addresses that it has given out.
    #[arg(
        long,
        value_name = "DIR",
        env = "DATAPATH_CNI_DATA_DIR",
        default_value = "/run/cni-ipam-state"
    )]
    cni_data_dir: PathBuf,
    /// How the backend of a new connection is chosen, where a Service's annotation
    /// `datapath/lb-algorithm` does not say: at random, or by its addresses and ports, so that every
    /// node chooses the same (maglev).
    #[arg(
        long,
        value_name = "random|maglev",
        env = "DATAPATH_LB_ALGORITHM",
        default_value = "random"
    )]
    lb_algorithm: Algorithm,
    /// How what comes from outside for a node port, an external or a load balancer's address reaches a
    /// backend on another node, where a Service's annotation `datapath/forwarding` does not say: with
    /// this node's address as its source (snat), or as it is, wrapped in IP, so that the backend's node
    /// answers the client directly (dsr).
    #[arg(
        long,
        value_name = "snat|dsr",
        env = "DATAPATH_EXTERNAL_FORWARDING",
        default_value = "snat"
    )]
    external_forwarding: Forwarding,
    /// Translate at the sockets of this node's processes too, not by tc alone.
    #[arg(long, value_enum, env = "DATAPATH_SOCKET_LB", default_value = "on")]
    socket_lb: Switch,
    /// Source ports given to flows whose source address is replaced: by default those that neither
    /// the node's own connections nor node ports have.
    #[arg(
        long,
        value_name = "FIRST-LAST",
        env = "DATAPATH_MASQUERADE_PORTS",
        default_value = "1024-29999"
    )]
    masquerade_ports: PortRange,
    /// Give what pods send out of the cluster their node's address (auto: where no other CNI owns
    /// the node's network).
    #[arg(
        long,
        value_name = "auto|on|off",
        env = "DATAPATH_MASQUERADE_OUTSIDE",
        default_value = "auto"
    )]
    masquerade_outside: MasqueradeOutside,
    /// Ranges outside of the cluster to which pods keep their own address. To pods, nodes and
    /// Services they always do.
    #[arg(
        long,
        value_name = "CIDR",
        env = "DATAPATH_NON_MASQUERADE_CIDRS",
        value_delimiter = ',',
        default_value = "169.254.0.0/16,fe80::/10"
    )]
    non_masquerade_cidrs: Vec<IpNet>,
    /// Where the cluster's node ports are; the source ports above must be others.
    #[arg(
        long,
        value_name = "FIRST-LAST",
        env = "DATAPATH_SERVICE_NODE_PORT_RANGE",
        default_value = "30000-32767"
    )]
    service_node_port_range: PortRange,
    /// How many entries maps hold, as `datapath map list` names them, instead of the defaults. A map that
    /// is there keeps its size until `datapath cleanup`.
    #[arg(long, value_name = "MAP=NUMBER", env = "DATAPATH_MAP_ENTRIES", value_delimiter = ',')]
    map_entries: Vec<MapEntries>,
    /// Print the kernel programs' own log (they must have been built with it).
    #[arg(long, env = "DATAPATH_LOG_DATAPATH")]
    log_datapath: bool,
    /// Attach with clsact filters even where the kernel has tcx links.
    #[arg(long, env = "DATAPATH_FORCE_CLSACT")]
    force_clsact: bool,
    /// Turn packets for backends on other nodes round at the uplinks, before the kernel has made
    /// packets of them (XDP): in the driver (native), or behind it (generic). auto: in the driver where
    /// it can, and not at all where nothing can.
    #[arg(long, value_name = "MODE", env = "DATAPATH_XDP", default_value_t)]
    xdp: Xdp,
    /// The `DaemonSet` that we are part of: when it is gone, an agent that is told to end removes
    /// everything from its node.
    #[arg(long, value_name = "NAME", env = "DATAPATH_DAEMONSET")]
    daemonset: Option<String>,
}

impl AgentArgs {
    /// In the agent's own terms; with what is to be said about kube-proxy's file.
    pub fn options(self) -> Result<(agent::Options, Vec<Remark>), config::Error> {
        let (file, remarks) = match file(self.config) {
            Some(path) => config::read(&path)?,
            None => Default::default(),
        };
        let config = self.proxy.or(file);
        let saved = SavedServers::new(&self.state_dir);
        let mut plan = Settings::new(&config.node_name());
        plan.proxy_name.clone_from(&config.service_proxy_name);
        plan.masquerade_all = config.masquerade_all.unwrap_or(false);
        plan.algorithm = self.lb_algorithm;
        plan.forwarding = self.external_forwarding;
        plan.local = config.local_detector()?;
        plan.primary = config.primary_address();
        plan.routing = self.routing;
        plan.sole_network = self.cni == Switch::On;
        plan.node_port_addresses = config.node_port_addresses();
        plan.masquerade_ports = (self.masquerade_ports.first, self.masquerade_ports.last);
        plan.masquerade_outside = self.masquerade_outside;
        plan.non_masquerade_cidrs = self.non_masquerade_cidrs;
        let access = Access {
            servers: self.api_server.into_iter().filter(|url| !url.is_empty()).collect(),
            kubeconfig: config.kubeconfig.clone(),
            kubelet_config: self.kubelet_config,
            saved: Some(saved.clone()),
        };
        let socket_lb = self.socket_lb == Switch::On;
        let options = agent::Options {
            objects: self.source.map_or(Objects::Server(access), Objects::Folder),
            saved: Some(saved),
            plan,
            datapath: datapath::Options {
                bpffs: self.bpffs.bpffs,
                cgroup_root: self.cgroup_root,
                socket_lb,
                log_datapath: self.log_datapath,
                force_clsact: self.force_clsact,
                map_entries: self
                    .map_entries
                    .into_iter()
                    .map(|MapEntries { map, entries }| (map, entries))
                    .collect(),
                xdp: self.xdp,
            },
            kernel: KernelSettings {
                devices: self.device.into_iter().filter(|name| !name.is_empty()).collect(),
                socket_lb,
                host_netns: 0,
            },
            node: node::Settings {
                conntrack: config.conntrack.settings(),
                masquerade_ports: self.masquerade_ports,
                node_ports: self.service_node_port_range,
                oom_score_adj: config.oom_score_adj.unwrap_or(OOM_SCORE_ADJ),
            },
            cni: CniOptions {
                enabled: self.cni == Switch::On,
                conf_dir: self.cni_conf_dir.cni_conf_dir,
                data_dir: self.cni_data_dir,
            },
            health_address: config.healthz_address(),
            metrics_address: config.metrics_address(),
            sync_period: config.sync_period(),
            config_sync_period: config.config_sync_period(),
            log_format: config.log_format.unwrap_or(LogFormat::Text),
            daemonset: self.daemonset.filter(|name| !name.is_empty()),
            state_dir: self.state_dir,
        };
        Ok((options, remarks))
    }
}

/// The file that is given, else kube-proxy's own if it is there; an empty name stands for none.
fn file(given: Option<PathBuf>) -> Option<PathBuf> {
    let path = given.unwrap_or_else(|| {
        let usual = Path::new(config::USUAL_FILE);
        if usual.exists() { usual.to_owned() } else { PathBuf::new() }
    });
    Some(path).filter(|path| !path.as_os_str().is_empty())
}

/// kube-proxy's default.
const OOM_SCORE_ADJ: i16 = -999;

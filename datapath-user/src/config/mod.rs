//! What kube-proxy can be told, by our flags, our environment, or its own configuration file.
//!
//! A flag counts more than the environment, that more than the file, and the file more than the
//! default. A field of the file that has no effect here is worth a warning; a wrong value is an
//! error, before anything is touched.

mod conntrack;
mod fields;
mod file;
#[cfg(test)]
mod tests;
mod values;

pub use conntrack::ConntrackConfig;
pub use fields::Remark;
pub use values::{GoDuration, Listen, LocalMode, LogFormat};

use crate::plan::{LocalDetector, NodePortAddresses};
use clap::Args;
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Everything that is kube-proxy's too; what is not given stays for the next in line.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct ProxyConfig {
    /// This node's name in the cluster; else `$NODE_NAME`, else the host's name.
    #[arg(long, alias = "hostname-override", env = "DATAPATH_NODE_NAME")]
    pub node_name: Option<String>,
    /// How to reach the API server; else the pod's service account, else the kubelet's file.
    #[arg(long, value_name = "FILE", env = "DATAPATH_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Counts as the node's primary address in place of its Node object's; 0.0.0.0 or :: for none.
    #[arg(long, value_name = "IP", env = "DATAPATH_BIND_ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// Where /healthz and /livez are served [default: 0.0.0.0:10256]; empty for nowhere.
    #[arg(long, value_name = "IP[:PORT]", env = "DATAPATH_HEALTHZ_BIND_ADDRESS")]
    pub healthz_bind_address: Option<Listen>,
    /// Where /metrics and /proxyMode are served [default: 127.0.0.1:10249]; empty for nowhere.
    #[arg(long, value_name = "IP[:PORT]", env = "DATAPATH_METRICS_BIND_ADDRESS")]
    pub metrics_bind_address: Option<Listen>,
    /// Handle only Services whose label service.kubernetes.io/service-proxy-name is this; else
    /// only those without the label.
    #[arg(long, value_name = "NAME", env = "DATAPATH_SERVICE_PROXY_NAME")]
    pub service_proxy_name: Option<String>,
    /// Replace the source address of everything sent to a cluster address.
    #[arg(long, env = "DATAPATH_MASQUERADE_ALL", value_name = "true|false",
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub masquerade_all: Option<bool>,
    /// Serve node ports to this node's own processes on its loopback addresses [default: true].
    #[arg(long, alias = "iptables-localhost-nodeports", env = "DATAPATH_LOCALHOST_NODEPORTS",
        value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub localhost_nodeports: Option<bool>,
    /// Addresses of the node that serve node ports: the words primary, all, localhost, and ranges
    /// [default: primary].
    #[arg(long, value_name = "LIST", env = "DATAPATH_NODEPORT_ADDRESSES")]
    pub nodeport_addresses: Option<NodePortAddresses>,
    /// How pods of this node are told from other clients: `ClusterCIDR`, `NodeCIDR`,
    /// `BridgeInterface` or `InterfaceNamePrefix`.
    #[arg(long, value_name = "MODE", env = "DATAPATH_DETECT_LOCAL_MODE")]
    pub detect_local_mode: Option<LocalMode>,
    /// The bridge of the mode `BridgeInterface`.
    #[arg(long, value_name = "NAME", env = "DATAPATH_POD_BRIDGE_INTERFACE")]
    pub pod_bridge_interface: Option<String>,
    /// The prefix of the mode `InterfaceNamePrefix`.
    #[arg(long, value_name = "PREFIX", env = "DATAPATH_POD_INTERFACE_NAME_PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Ranges whose addresses count as pods; else the podCIDRs of all Nodes.
    #[arg(long, value_name = "CIDR", env = "DATAPATH_CLUSTER_CIDR", value_delimiter = ',')]
    pub cluster_cidr: Option<Vec<IpNet>>,
    /// How ready the kernel is to end the agent when memory is short [default: -999].
    #[arg(long, value_name = "NUMBER", env = "DATAPATH_OOM_SCORE_ADJ", allow_hyphen_values = true,
        value_parser = clap::value_parser!(i16).range(-1000..=1000))]
    pub oom_score_adj: Option<i16>,
    /// How often the maps are compared with what they should hold, and what failed is tried again
    /// [default: 30s].
    #[arg(long, alias = "iptables-sync-period", value_name = "DURATION",
        env = "DATAPATH_SYNC_PERIOD", value_parser = GoDuration::period)]
    pub sync_period: Option<GoDuration>,
    /// How often everything is planned anew from what the API server said [default: 15m].
    #[arg(long, value_name = "DURATION", env = "DATAPATH_CONFIG_SYNC_PERIOD",
        value_parser = GoDuration::period)]
    pub config_sync_period: Option<GoDuration>,
    /// What is set in the kernel's connection tracking.
    #[command(flatten)]
    pub conntrack: ConntrackConfig,
    /// How logs are printed: text or json [default: text].
    #[arg(long, value_name = "text|json", env = "DATAPATH_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("reading {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not a YAML mapping.
    #[error("{path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// Some of its fields are wrong.
    #[error("{path}: {}", list(wrong))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// All that are.
        wrong: Vec<Remark>,
    },
    /// The mode of detecting local clients needs a name.
    #[error("the mode {mode} needs {field} (--{flag}), which must not be empty")]
    Missing {
        /// `detectLocalMode`.
        mode: &'static str,
        /// The field of the file.
        field: &'static str,
        /// The flag.
        flag: &'static str,
    },
}

fn list(remarks: &[Remark]) -> String {
    remarks.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a file says, with a warning for each field that has no effect.
pub fn read(path: &Path) -> Result<(ProxyConfig, Vec<Remark>), Error> {
    let text =
        fs::read_to_string(path).map_err(|error| Error::Read { path: path.to_owned(), error })?;
    let root: Map<String, Value> = serde_saphyr::from_str(&text).map_err(|error| {
        // The rest of the message is a picture of the file.
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        Error::Parse { path: path.to_owned(), reason }
    })?;
    let mut fields = fields::Fields::new(root);
    let config = file::read(&mut fields);
    let fields::Fields { wrong, warnings, .. } = fields;
    if wrong.is_empty() {
        Ok((config, warnings))
    } else {
        Err(Error::Wrong { path: path.to_owned(), wrong })
    }
}

impl ProxyConfig {
    /// This, and where it says nothing, `file`.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        let Self {
            node_name,
            kubeconfig,
            bind_address,
            healthz_bind_address,
            metrics_bind_address,
            service_proxy_name,
            masquerade_all,
            localhost_nodeports,
            nodeport_addresses,
            detect_local_mode,
            pod_bridge_interface,
            pod_interface_name_prefix,
            cluster_cidr,
            oom_score_adj,
            sync_period,
            config_sync_period,
            conntrack,
            log_format,
        } = self;
        Self {
            node_name: node_name.or(file.node_name),
            kubeconfig: kubeconfig.or(file.kubeconfig),
            bind_address: bind_address.or(file.bind_address),
            healthz_bind_address: healthz_bind_address.or(file.healthz_bind_address),
            metrics_bind_address: metrics_bind_address.or(file.metrics_bind_address),
            service_proxy_name: service_proxy_name.or(file.service_proxy_name),
            masquerade_all: masquerade_all.or(file.masquerade_all),
            localhost_nodeports: localhost_nodeports.or(file.localhost_nodeports),
            nodeport_addresses: nodeport_addresses.or(file.nodeport_addresses),
            detect_local_mode: detect_local_mode.or(file.detect_local_mode),
            pod_bridge_interface: pod_bridge_interface.or(file.pod_bridge_interface),
            pod_interface_name_prefix: pod_interface_name_prefix.or(file.pod_interface_name_prefix),
            cluster_cidr: cluster_cidr.or(file.cluster_cidr),
            oom_score_adj: oom_score_adj.or(file.oom_score_adj),
            sync_period: sync_period.or(file.sync_period),
            config_sync_period: config_sync_period.or(file.config_sync_period),
            conntrack: conntrack.or(file.conntrack),
            log_format: log_format.or(file.log_format),
        }
    }

    /// This node's name as kube-proxy would find it.
    pub fn node_name(&self) -> String {
        let given = self.node_name.clone().or_else(|| std::env::var("NODE_NAME").ok());
        given
            .filter(|name| !name.is_empty())
            .or_else(|| nix::unistd::gethostname().ok()?.into_string().ok())
            .unwrap_or_default()
            .trim()
            .to_lowercase()
    }

    /// The address that counts as the node's primary one, if one is given.
    pub fn primary_address(&self) -> Option<IpAddr> {
        self.bind_address.filter(|address| !address.is_unspecified())
    }

    /// Where `/healthz` is served.
    pub fn healthz_address(&self) -> Option<SocketAddr> {
        let default = self.of_family(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        self.healthz_bind_address.unwrap_or(default).address(HEALTHZ_PORT)
    }

    /// Where `/metrics` is served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        let default = self.of_family(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        self.metrics_bind_address.unwrap_or(default).address(METRICS_PORT)
    }

    /// Defaults follow the family of the bind address.
    fn of_family(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Listen {
        let is_v6 = self.bind_address.is_some_and(|address| address.is_ipv6());
        Listen::At(if is_v6 { v6.into() } else { v4.into() }, None)
    }

    /// On which addresses node ports are served.
    pub fn node_port_addresses(&self) -> NodePortAddresses {
        let addresses = self.nodeport_addresses.clone().unwrap_or_default();
        match self.localhost_nodeports {
            Some(false) => addresses.without_localhost(),
            _ => addresses,
        }
    }

    /// How pods of this node are told from other clients. As with kube-proxy, nobody is one in the
    /// mode `ClusterCIDR` without a range; only who has not chosen that mode gets the podCIDRs of
    /// all Nodes.
    pub fn local_detector(&self) -> Result<LocalDetector, Error> {
        let ranges = self.cluster_cidr.iter().flatten().map(IpNet::trunc).collect();
        let named = |mode, name: &Option<String>, field, flag| {
            let name = name.clone().filter(|name| !name.is_empty());
            name.ok_or(Error::Missing { mode, field, flag })
        };
        Ok(match self.detect_local_mode {
            None if self.cluster_cidr.is_none() => LocalDetector::AllNodes,
            None | Some(LocalMode::ClusterCidr) => LocalDetector::Ranges(ranges),
            Some(LocalMode::NodeCidr) => LocalDetector::OwnNode,
            Some(LocalMode::BridgeInterface) => LocalDetector::Bridge(named(
                "BridgeInterface",
                &self.pod_bridge_interface,
                "detectLocal.bridgeInterface",
                "pod-bridge-interface",
            )?),
            Some(LocalMode::InterfaceNamePrefix) => LocalDetector::Prefix(named(
                "InterfaceNamePrefix",
                &self.pod_interface_name_prefix,
                "detectLocal.interfaceNamePrefix",
                "pod-interface-name-prefix",
            )?),
        })
    }

    /// How often maps are compared.
    pub fn sync_period(&self) -> Duration {
        self.sync_period.map_or(SYNC_PERIOD, |period| period.0)
    }

    /// How often everything is planned anew.
    pub fn config_sync_period(&self) -> Duration {
        self.config_sync_period.map_or(CONFIG_SYNC_PERIOD, |period| period.0)
    }
}

/// Where kube-proxy's own DaemonSet mounts its configuration.
pub const USUAL_FILE: &str = "/var/lib/kube-proxy/config.conf";

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// kube-proxy's defaults.
const SYNC_PERIOD: Duration = Duration::from_secs(30);
const CONFIG_SYNC_PERIOD: Duration = Duration::from_mins(15);

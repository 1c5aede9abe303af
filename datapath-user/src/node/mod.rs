//! What the agent sets on its node besides programs and maps: a few of the kernel's settings, as
//! kube-proxy does, and ports of its own.

mod cni;
mod conntrack;
mod ports;
mod sysctl;

pub use cni::{CniError, Conflist};
pub use conntrack::Conntrack;
pub use ports::{PortRange, PortsError, release};
pub use sysctl::{NotSet, Sysctls};

use std::{fs, path::Path};
use tracing::debug;

/// What is to be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits of the kernel's connection tracking.
    pub conntrack: Conntrack,
    /// Source ports given to flows whose source address is replaced.
    pub masquerade_ports: PortRange,
    /// Where the cluster's node ports are.
    pub node_ports: PortRange,
    /// How ready the kernel is to end this process when memory is short.
    pub oom_score_adj: i16,
}

/// Sets it all; returns what could not be set, but can be lived with. An error means that ports
/// clash, and that nothing was set.
pub fn prepare(settings: &Settings, state_dir: &Path) -> Result<Vec<NotSet>, PortsError> {
    let sysctls = Sysctls::of_node();
    let mut not_set = Vec::new();
    let Settings { conntrack, masquerade_ports, node_ports, oom_score_adj } = settings;
    not_set.extend(ports::reserve(*masquerade_ports, *node_ports, &sysctls, state_dir)?);
    not_set.extend(conntrack.set(&sysctls));
    if let Err(error) = fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string()) {
        // Less than the kubelet gave us takes CAP_SYS_RESOURCE, and it gave us nearly the same.
        debug!(%error, oom_score_adj, "the OOM score stays as it is");
    }
    Ok(not_set)
}

//! The command line. Every flag of `agent` can come from the environment too.

mod agent;
mod show;
#[cfg(test)]
mod tests;
mod values;

pub use agent::AgentArgs;
pub use show::{FlowCommand, ListCommand, ServiceCommand, ShowArgs};

use crate::datapath;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

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
    /// Pods of this node and their interfaces.
    #[command(subcommand)]
    Workload(ListCommand),
    /// Nodes: how their pods are reached, and whether they answer.
    #[command(subcommand)]
    Node(ListCommand),
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

/// Where the pins are.
#[derive(Clone, Debug, Args)]
pub struct BpffsArgs {
    /// Folder of our pins on a BPF file system.
    #[arg(long, env = "DATAPATH_BPFFS", default_value = "/sys/fs/bpf/datapath")]
    pub bpffs: PathBuf,
}

/// Where the container runtime looks.
#[derive(Clone, Debug, Args)]
pub struct CniConfDirArgs {
    /// The container runtime's folder of network configurations.
    #[arg(
        long,
        value_name = "DIR",
        env = "DATAPATH_CNI_CONF_DIR",
        default_value = "/etc/cni/net.d"
    )]
    pub cni_conf_dir: PathBuf,
}

/// What to clean up.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,
    /// Where the agent remembered things.
    #[arg(long, env = "DATAPATH_STATE_DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    #[command(flatten)]
    /// Where the container runtime was told of pods.
    pub cni: CniConfDirArgs,
}

impl CleanupArgs {
    /// In the kernel side's own terms.
    pub fn options(&self) -> datapath::Options {
        datapath::Options { bpffs: self.bpffs.bpffs.clone(), ..datapath::Options::default() }
    }
}

const STATE_DIR: &str = "/run/datapath";

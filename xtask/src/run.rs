//! `cargo xtask run`: a cluster without kube-proxy, on kind or in the lab, and a tour of it.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{kind, lab};

/// Where the cluster runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum On {
    /// kind where it is installed and a Docker daemon answers, else the lab.
    Auto,
    /// Network namespaces of this machine.
    Lab,
    /// A kind cluster.
    Kind,
}

/// Which reference cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Cluster {
    /// The kind cluster
    Myk8s,
    /// The same without a CNI: pods are connected as the agent says, in the lab
    Myk8sAlone,
    /// Calico's IPIP cluster: two subnets and a router, in the lab
    Calico,
}

/// How to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the cluster runs
    #[arg(long, value_enum, default_value_t = On::Auto)]
    on: On,
    /// Which cluster
    #[arg(long, value_enum, default_value_t = Cluster::Myk8s)]
    cluster: Cluster,
    /// Exit after the tour, with its status
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    kind: kind::Options,
}

/// Starts the cluster and gives the tour.
///
/// # Errors
///
/// When the cluster does not start, or the tour finds a Service that does not answer.
pub(crate) fn run(options: &Options) -> Result<()> {
    let on_kind = match options.on {
        On::Kind => true,
        On::Lab => false,
        On::Auto if options.cluster != Cluster::Myk8s => false,
        On::Auto => kind::available(),
    };
    if on_kind {
        return kind::run(&options.kind, options.once);
    }
    let mut arguments = vec!["tour".to_owned()];
    if let Some(cluster) = options.cluster.to_possible_value() {
        arguments.push(format!("--cluster={}", cluster.get_name()));
    }
    if options.once {
        arguments.push("--once".to_owned());
    }
    lab::become_lab(&arguments)
}

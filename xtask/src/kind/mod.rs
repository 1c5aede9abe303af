//! A real kind cluster: made from `manifests/kind.yaml`, the `DaemonSet` applied, the tour given.
//!
//! `DOCKER` and `KIND` may hold another command line for either program. kubectl is the one inside
//! the control-plane node: its version fits, and nothing has to be installed here.

pub(crate) mod bench;
mod cluster;
pub(crate) mod image;
mod tour;

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::process;
use cluster::Cluster;

/// How to run on kind.
#[derive(Args)]
#[group(id = "kind")]
pub(crate) struct Options {
    /// kind: the node image [default: the one this version of kind was made with]
    #[arg(long, env = "KIND_NODE_IMAGE", value_name = "IMAGE")]
    node_image: Option<String>,
    /// kind: the name of the cluster; one that exists already is used as it is
    #[arg(long, env = "KIND_CLUSTER_NAME", value_name = "NAME", default_value = "myk8s")]
    kind_cluster: String,
    /// kind: the image of the tour's test pods; pulled by the nodes if they do not have it
    #[arg(long, env = "DATAPATH_AGNHOST_IMAGE", value_name = "IMAGE", default_value = tour::AGNHOST)]
    agnhost_image: String,
}

/// Whether kind is installed and a Docker daemon answers.
pub(crate) fn available() -> bool {
    process::succeeds(kind().arg("version")) && process::succeeds(docker().arg("version"))
}

/// The docker command.
pub(crate) fn docker() -> Command {
    process::from_variable("DOCKER", "docker")
}

/// The kind command.
pub(crate) fn kind() -> Command {
    process::from_variable("KIND", "kind")
}

/// Makes the cluster, installs datapath, gives the tour; then shows live traffic unless `once`.
///
/// # Errors
///
/// When a step fails, or the tour finds something that does not answer.
pub(crate) fn run(options: &Options, once: bool) -> Result<()> {
    if !available() {
        bail!(
            "kind needs `kind` in PATH and a Docker daemon that answers. \
             Install them (https://kind.sigs.k8s.io), or use: cargo xtask run --on lab"
        );
    }
    let image = image::build()?;
    let cluster = Cluster::ensure(&options.kind_cluster, options.node_image.as_deref())?;
    cluster.load(&image)?;
    cluster.install()?;
    let result = tour::give(&cluster, &options.agnhost_image);
    println!(
        "\nThe cluster stays. By hand: docker exec {} kubectl get pods -A -o wide\n\
         Remove datapath:           kubectl delete -k manifests/\n\
         Remove the cluster:        kind delete cluster --name {}",
        cluster.control_plane(),
        options.kind_cluster
    );
    result?;
    if once { Ok(()) } else { show_traffic(&cluster) }
}

/// Shows the Services with their traffic until Ctrl-C.
fn show_traffic(cluster: &Cluster) -> Result<()> {
    loop {
        thread::sleep(Duration::from_secs(2));
        println!("\x1b[2J\x1b[H{}", cluster.services()?);
    }
}

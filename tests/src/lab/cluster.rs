//! Where the objects of a lab's cluster are.

use super::{Lab, Node};
use crate::{
    api::ApiClient,
    control::{ControlPlane, Identity},
    source::Source,
    space::{Space, lock},
    topology::SERVICE_RANGES,
};
use anyhow::{Context as _, Result, bail};
use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Where the objects of the cluster are.
#[derive(Debug)]
pub(super) enum Cluster {
    Api { client: ApiClient, control: Mutex<ControlPlane> },
    Source(Mutex<Source>),
}

impl Lab {
    /// The client of the API server.
    pub fn api(&self) -> Result<&ApiClient> {
        match &self.cluster {
            Cluster::Api { client, .. } => Ok(client),
            Cluster::Source(_) => bail!("this lab has no API server"),
        }
    }

    /// The folder of files in place of the API server.
    pub fn source(&self) -> Result<&Mutex<Source>> {
        match &self.cluster {
            Cluster::Source(source) => Ok(source),
            Cluster::Api { .. } => bail!("this lab has an API server"),
        }
    }

    /// Kills the API server.
    pub fn stop_api_server(&self) -> Result<()> {
        match &self.cluster {
            Cluster::Api { control, .. } => lock(control).stop_api_server(),
            Cluster::Source(_) => bail!("this lab has no API server"),
        }
    }

    /// Whether the API server runs.
    pub fn has_api_server(&self) -> Result<bool> {
        match &self.cluster {
            Cluster::Api { control, .. } => Ok(lock(control).has_api_server()),
            Cluster::Source(_) => bail!("this lab has no API server"),
        }
    }

    /// Starts the API server again.
    pub fn start_api_server(&self) -> Result<()> {
        match &self.cluster {
            Cluster::Api { control, .. } => {
                let home = self.nodes.first().context("no nodes")?;
                lock(control).start_api_server(&home.space)
            }
            Cluster::Source(_) => bail!("this lab has no API server"),
        }
    }

    /// The credentials of an identity, in a lab with a control plane.
    pub fn kubeconfig(&self, identity: Identity) -> Option<PathBuf> {
        match &self.cluster {
            Cluster::Api { control, .. } => Some(lock(control).kubeconfig(identity)),
            Cluster::Source(_) => None,
        }
    }
}

pub(super) fn start_control_plane(node: &Node, bridge: &Space, folder: &Path) -> Result<Cluster> {
    let mut control = ControlPlane::start(
        &node.space,
        &folder.join("control-plane"),
        &node.system_cgroup(),
        node.spec.address().v4,
        &SERVICE_RANGES.join(","),
    )?;
    let client = ApiClient::connect(bridge, &mut control)?;
    control.start_controllers(&node.space)?;
    client.grant_manifests()?;
    client.add_nodes(&node.topology.nodes)?;
    Ok(Cluster::Api { client, control: Mutex::new(control) })
}

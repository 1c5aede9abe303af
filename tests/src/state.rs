//! What a lab tells other processes about itself, in a file in its folder.

use crate::{
    control::Identity,
    host,
    lab::Lab,
    topology::{BRIDGE, OUTSIDE},
};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Name of the file.
pub const FILE: &str = "state.json";

/// A lab as others see it.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Random name.
    pub id: String,
    /// The process that the lab lives and dies with.
    pub owner: u32,
    /// Nodes, pods, `mypc` and `bridge`.
    pub places: BTreeMap<String, Place>,
}

/// A namespace.
#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    /// The process that holds it.
    pub pid: u32,
    /// Folder of its cgroup.
    pub cgroup: PathBuf,
    /// Addresses, for people.
    pub addresses: Vec<String>,
    /// Node that a pod is on.
    pub node: Option<String>,
    /// What a command there finds in its environment.
    pub environment: BTreeMap<String, String>,
}

impl State {
    /// The state of a lab of this process.
    pub fn of(lab: &Lab) -> Self {
        let mut places = BTreeMap::new();
        for name in [BRIDGE, OUTSIDE] {
            if let Ok(space) = lab.space(name) {
                let place = Place {
                    pid: space.pid(),
                    cgroup: space.cgroup().to_owned(),
                    addresses: Vec::new(),
                    node: None,
                    environment: BTreeMap::new(),
                };
                places.insert(name.to_owned(), place);
            }
        }
        for node in lab.nodes() {
            let mut environment = BTreeMap::from([
                ("DATAPATH_NODE_NAME".to_owned(), node.spec.name.to_owned()),
                ("DATAPATH_BPFFS".to_owned(), node.pins().display().to_string()),
                ("DATAPATH_CGROUP_ROOT".to_owned(), node.cgroup.display().to_string()),
                ("DATAPATH_STATE_DIR".to_owned(), node.state_dir().display().to_string()),
                ("DATAPATH_CNI_CONF_DIR".to_owned(), node.cni_conf_dir().display().to_string()),
            ]);
            if let Some(file) = lab.kubeconfig(Identity::Admin) {
                environment.insert("KUBECONFIG".to_owned(), file.display().to_string());
            }
            let place = Place {
                pid: node.space.pid(),
                cgroup: node.space.cgroup().to_owned(),
                addresses: node.spec.address().both().map(|ip| ip.to_string()).to_vec(),
                node: None,
                environment,
            };
            places.insert(node.spec.name.to_owned(), place);
        }
        for pod in lab.pods() {
            let place = Place {
                pid: pod.space.pid(),
                cgroup: pod.space.cgroup().to_owned(),
                addresses: pod.address.both().map(|ip| ip.to_string()).to_vec(),
                node: Some(pod.spec.node.name.to_owned()),
                environment: BTreeMap::new(),
            };
            places.insert(pod.spec.name.clone(), place);
        }
        Self { id: lab.id().to_owned(), owner: std::process::id(), places }
    }

    /// The lab with this id, or the only one.
    pub fn find(id: Option<&str>) -> Result<Self> {
        let mut labs = Self::all();
        if let Some(id) = id {
            labs.retain(|lab| lab.id == id);
        }
        match labs.len() {
            0 => bail!("no lab runs (lab up starts one)"),
            1 => labs.pop().context("no lab runs"),
            _ => {
                let ids: Vec<_> = labs.into_iter().map(|lab| lab.id).collect();
                bail!("several labs run, say which one with --lab: {}", ids.join(", "))
            }
        }
    }

    /// All labs of this machine that are up.
    pub fn all() -> Vec<Self> {
        let Ok(labs) = fs::read_dir(host::LABS) else { return Vec::new() };
        labs.flatten()
            .filter_map(|entry| fs::read(entry.path().join(FILE)).ok())
            .filter_map(|text| serde_json::from_slice(&text).ok())
            .collect()
    }

    /// The folder of the lab.
    pub fn folder(&self) -> PathBuf {
        Path::new(host::LABS).join(&self.id)
    }

    /// A place by its name, nodes also without the name of the cluster.
    pub fn place(&self, name: &str) -> Result<&Place> {
        let full = |cluster| self.places.get(&format!("{cluster}-{name}"));
        let found = self.places.get(name).or_else(|| ["myk8s", "k8s"].into_iter().find_map(full));
        found.with_context(|| {
            let names: Vec<_> = self.places.keys().map(String::as_str).collect();
            format!("no node or pod {name}; there are {}", names.join(", "))
        })
    }

    /// A command that runs at a place.
    pub fn command(&self, name: &str, command: &[String]) -> Result<Command> {
        let place = self.place(name)?;
        let mut run = Command::new(host::pod_binary()?);
        run.args(["run", "--net", &format!("/proc/{}/ns/net", place.pid), "--cgroup"])
            .arg(&place.cgroup)
            .arg("--")
            .args(command)
            .envs(&place.environment);
        Ok(run)
    }
}

//! A running lab.

mod builder;
mod cluster;
mod pods;
mod proxies;

use crate::{
    control, host,
    keeper::Keeper,
    proxy::{Kind, Proxy},
    source::Source,
    space::Space,
    topology::{BRIDGE, NodeSpec, OUTSIDE, Topology},
    wire,
};
use anyhow::{Context as _, Result};
use cluster::{Cluster, start_control_plane};
use nix::mount::{MsFlags, mount};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub use builder::Builder;
pub use pods::Pod;

/// A node of the lab.
#[derive(Debug)]
pub struct Node {
    /// The cluster.
    pub topology: &'static Topology,
    /// Its place in the cluster.
    pub spec: &'static NodeSpec,
    /// Its namespace; what asks from here asks as a process of the node.
    pub space: Arc<Space>,
    /// Its files: logs, state of the agent.
    pub folder: PathBuf,
    /// The root of its cgroups.
    pub cgroup: PathBuf,
}

impl Node {
    /// The cgroup of the node's own services.
    pub fn system_cgroup(&self) -> PathBuf {
        self.cgroup.join("system")
    }

    /// The mount point of its bpffs.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// What the agent remembers.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Where the container runtime looks for network configurations.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.folder.join("cni/net.d")
    }

    /// Where the plugin host-local keeps the addresses that it has given out.
    pub fn cni_data_dir(&self) -> PathBuf {
        self.folder.join("cni/ipam")
    }

    /// Where the agent pins.
    pub fn pins(&self) -> PathBuf {
        self.bpffs().join("datapath")
    }
}

/// A cluster of namespaces. Everything it consists of goes when it is dropped.
#[derive(Debug)]
pub struct Lab {
    id: String,
    topology: &'static Topology,
    folder: PathBuf,
    nodes: Vec<Node>,
    bridge: Arc<Space>,
    outside: Arc<Space>,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    next_address: Mutex<HashMap<&'static str, u8>>,
    proxies: Mutex<HashMap<&'static str, Proxy>>,
    /// What the proxies of all nodes were last started as.
    last_start: Mutex<Option<(Kind, Vec<String>)>>,
    cluster: Cluster,
    keeper: Keeper,
}

impl Lab {
    /// The nodes and the control plane.
    fn bare(topology: &'static Topology, source_mode: bool) -> Result<Self> {
        if !source_mode {
            control::programs()?;
        }
        let id = new_id()?;
        let folder = Path::new(host::LABS).join(&id);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // From here on whatever goes wrong is cleared up.
        let keeper = Keeper::start(&folder)?;
        let cgroup = host::lab_cgroup(&id)?;
        let start = |name: &str| Space::start(name, &cgroup.join(name), None).map(Arc::new);
        let (bridge, outside) = (start(BRIDGE)?, start(OUTSIDE)?);
        wire::bridge(&bridge, topology)?;
        wire::outside(&outside, &bridge, topology)?;
        let nodes = topology
            .nodes
            .iter()
            .map(|spec| make_node(topology, spec, &bridge, &folder, &cgroup))
            .collect::<Result<Vec<_>>>()?;
        let cluster = if source_mode {
            let mut source = Source::new(&folder.join("source"))?;
            source.add_nodes(&topology.nodes)?;
            Cluster::Source(Mutex::new(source))
        } else {
            let home = nodes.first().context("no nodes")?;
            start_control_plane(home, &bridge, &folder)?
        };
        Ok(Self {
            id,
            topology,
            folder,
            nodes,
            bridge,
            outside,
            pods: Mutex::default(),
            next_address: Mutex::default(),
            proxies: Mutex::default(),
            last_start: Mutex::default(),
            cluster,
            keeper,
        })
    }

    /// The random name of this lab.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The cluster that this is.
    pub fn topology(&self) -> &'static Topology {
        self.topology
    }

    /// The lab's files; gone with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All nodes, the control plane first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its whole or short name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.spec.name == name || node.spec.short() == name)
            .with_context(|| format!("no node {name}"))
    }

    /// The namespace of a node, a pod, `mypc` or `bridge`.
    pub fn space(&self, name: &str) -> Result<Arc<Space>> {
        match name {
            OUTSIDE => Ok(Arc::clone(&self.outside)),
            BRIDGE => Ok(Arc::clone(&self.bridge)),
            _ => match self.node(name) {
                Ok(node) => Ok(Arc::clone(&node.space)),
                Err(_) => Ok(Arc::clone(&self.pod(name)?.space)),
            },
        }
    }

    /// Has the other end of a node's uplink refuse all but the shortest frames, or take them again: what
    /// the node sends costs nobody else anything then.
    pub fn refuse_from(&self, node: &Node, on: bool) -> Result<()> {
        wire::refuse(&self.bridge, self.topology, node.spec, on)
    }

    /// Takes the lab down and reports what could not be cleared up.
    pub fn down(mut self) -> Result<()> {
        self.keeper.finish()
    }

    /// Writes what `lab exec` and `lab status` of other processes need to know.
    fn write_state(&self) -> Result<()> {
        let state = crate::state::State::of(self);
        fs::write(self.folder.join(crate::state::FILE), serde_json::to_vec_pretty(&state)?)
            .context("write the state of the lab")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.keeper.finish() {
            tracing::error!(error = format!("{error:#}"), lab = self.id, "clearing up failed");
        }
    }
}

fn make_node(
    topology: &'static Topology,
    spec: &'static NodeSpec,
    bridge: &Space,
    folder: &Path,
    cgroup: &Path,
) -> Result<Node> {
    let cgroup = cgroup.join(spec.name);
    let space = Space::start(spec.name, &cgroup.join("host"), None)?;
    wire::node(&space, bridge, topology, spec)?;
    let node =
        Node { topology, spec, space: Arc::new(space), folder: folder.join(spec.name), cgroup };
    for path in [
        node.bpffs(),
        node.state_dir(),
        node.system_cgroup(),
        node.cni_conf_dir(),
        node.cni_data_dir(),
    ] {
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    mount(Some("bpf"), &node.bpffs(), Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount a bpffs at {}", node.bpffs().display()))?;
    Ok(node)
}

/// Eight random hexadecimal digits.
fn new_id() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("read a random id")?;
    Ok(uuid.chars().take(8).collect())
}

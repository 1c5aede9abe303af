//! A running lab.

use crate::{
    api::ApiClient,
    cni,
    control::{self, ControlPlane, Identity},
    host,
    keeper::Keeper,
    manifest::PodSpec,
    proto::{Op, Proto},
    proxy::{self, Kind, Origin, Proxy},
    source::Source,
    space::{Space, lock},
    topology::{BRIDGE, Dual, MYK8S, NodeSpec, OUTSIDE, SERVICE_RANGES, Topology, Wiring},
    wire,
};
use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

/// What a lab is to be; [`Builder::up`] makes it.
#[derive(Clone, Debug)]
pub struct Builder {
    topology: &'static Topology,
    pods_per_node: u8,
    host_pods: bool,
    source_mode: bool,
    proxies: Option<Kind>,
}

impl Builder {
    /// Which cluster; `myk8s` unless told otherwise.
    #[must_use]
    pub fn topology(mut self, topology: &'static Topology) -> Self {
        self.topology = topology;
        self
    }

    /// Number of pods on each node, named `web-NODE-1`, `web-NODE-2`…, with the label `app: web`.
    #[must_use]
    pub fn pods_per_node(mut self, count: u8) -> Self {
        self.pods_per_node = count;
        self
    }

    /// Also a pod in the host network of each node: `host-NODE` with the label `app: host`.
    #[must_use]
    pub fn host_pods(mut self) -> Self {
        self.host_pods = true;
        self
    }

    /// No control plane: the objects are files for `--source`.
    #[must_use]
    pub fn source_mode(mut self) -> Self {
        self.source_mode = true;
        self
    }

    /// Starts the proxies before there are pods, which may be theirs to connect.
    #[must_use]
    pub fn proxies(mut self, kind: Kind) -> Self {
        self.proxies = Some(kind);
        self
    }

    /// Makes the lab. It is gone when the value is dropped, or this process ends in any way.
    pub fn up(&self) -> Result<Lab> {
        if let Some(reason) = host::missing() {
            bail!(reason);
        }
        host::sweep()?;
        let lab = Lab::bare(self.topology, self.source_mode)?;
        if let Some(kind) = self.proxies {
            lab.start_proxies(kind)?;
        }
        let mut specs = Vec::new();
        for spec in &self.topology.nodes {
            for index in 1..=self.pods_per_node {
                let name = format!("web-{}-{index}", spec.short());
                specs.push(PodSpec::new(&name, spec, "web"));
            }
            if self.host_pods {
                let name = format!("host-{}", spec.short());
                specs.push(PodSpec::new(&name, spec, "host").on_host_network());
            }
        }
        lab.create_pods(specs)?;
        Ok(lab)
    }
}

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

/// A pod of the lab.
#[derive(Debug)]
pub struct Pod {
    /// What it was to be.
    pub spec: PodSpec,
    /// Its namespace.
    pub space: Arc<Space>,
    /// Its addresses; the node's for a pod in the host network.
    pub address: Dual,
    /// The node's end of its link; none in the host network.
    pub device: Option<String>,
}

/// Where the objects of the cluster are.
#[derive(Debug)]
enum Cluster {
    Api { client: ApiClient, control: Mutex<ControlPlane> },
    Source(Mutex<Source>),
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
    /// The reference cluster `myk8s` without pods, unless the builder is told otherwise.
    pub fn builder() -> Builder {
        Builder {
            topology: &MYK8S,
            pods_per_node: 0,
            host_pods: false,
            source_mode: false,
            proxies: None,
        }
    }

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

    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<Arc<Pod>> {
        lock(&self.pods).get(name).cloned().with_context(|| format!("no pod {name}"))
    }

    /// All pods by name.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        lock(&self.pods).values().cloned().collect()
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

    /// Makes pods that run, serve and are registered as ready.
    pub fn create_pods(&self, specs: Vec<PodSpec>) -> Result<Vec<Arc<Pod>>> {
        // Addresses go by the order of the list, whichever thread is faster.
        let places = specs
            .into_iter()
            .map(|spec| Ok((self.next_index(&spec)?, spec)))
            .collect::<Result<Vec<_>>>()?;
        let pods = thread::scope(|scope| {
            let tasks: Vec<_> = places
                .into_iter()
                .map(|(index, spec)| scope.spawn(move || self.make_pod(index, spec)))
                .collect();
            tasks
                .into_iter()
                .map(|task| task.join().unwrap_or_else(|_panic| bail!("making a pod panicked")))
                .collect::<Result<Vec<_>>>()
        })?;
        let records: Vec<_> = pods.iter().map(|pod| (pod.spec.clone(), pod.address)).collect();
        match &self.cluster {
            Cluster::Api { client, .. } => client.add_pods(&records)?,
            Cluster::Source(source) => lock(source).add_pods(&records)?,
        }
        for pod in &pods {
            lock(&self.pods).insert(pod.spec.name.clone(), Arc::clone(pod));
        }
        self.write_state()?;
        Ok(pods)
    }

    /// Makes one pod.
    pub fn create_pod(&self, spec: PodSpec) -> Result<Arc<Pod>> {
        self.create_pods(vec![spec])?.pop().context("no pod")
    }

    /// Ends a pod: its object, its process, its namespace.
    pub fn delete_pod(&self, name: &str) -> Result<()> {
        let pod = lock(&self.pods).remove(name).with_context(|| format!("no pod {name}"))?;
        match &self.cluster {
            Cluster::Api { client, .. } => client.delete_pod(name, std::time::Duration::ZERO)?,
            Cluster::Source(source) => lock(source).delete_pod(name, false)?,
        }
        self.stop_pod(&pod)?;
        self.write_state()
    }

    /// Ends a pod's process and link but leaves its object, as when a machine crashes.
    pub fn stop_pod(&self, pod: &Pod) -> Result<()> {
        let node = self.node(pod.spec.node.name)?;
        if pod.device.is_some() && self.topology.wiring == Wiring::Agent {
            cni::del(node, &pod.space)?;
        }
        pod.space.stop();
        if let Some(device) = pod.device.as_ref().filter(|_| self.topology.wiring != Wiring::Agent)
        {
            // The kernel takes the link away by itself, but some time later.
            node.space.ip(&format!("link del {device}\n")).ok();
        }
        host::remove_cgroups(pod.space.cgroup())
    }

    /// Sets the object of a pod terminating; it goes on serving.
    pub fn terminate_pod(&self, name: &str) -> Result<()> {
        match &self.cluster {
            Cluster::Api { client, .. } => {
                client.delete_pod(name, std::time::Duration::from_mins(10))
            }
            Cluster::Source(source) => lock(source).delete_pod(name, true),
        }
    }

    /// Sets whether a pod is reported as ready.
    pub fn set_ready(&self, name: &str, ready: bool) -> Result<()> {
        let pod = self.pod(name)?;
        match &self.cluster {
            Cluster::Api { client, .. } => client.set_ready(&pod.spec, pod.address, ready),
            Cluster::Source(source) => lock(source).set_ready(name, ready),
        }
    }

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

    /// Starts a proxy on every node and waits until all are healthy.
    pub fn start_proxies(&self, kind: Kind) -> Result<()> {
        self.start_proxies_with(kind, &[])
    }

    /// Starts a proxy with more flags, or other ones, on every node and waits until all are healthy.
    pub fn start_proxies_with(&self, kind: Kind, flags: &[String]) -> Result<()> {
        *lock(&self.last_start) = Some((kind, flags.to_vec()));
        for node in &self.nodes {
            self.start_proxy_with(node, kind, flags)?;
        }
        self.nodes.iter().try_for_each(|node| self.wait_proxy(node))
    }

    /// Starts a proxy on a node.
    pub fn start_proxy(&self, node: &Node, kind: Kind) -> Result<()> {
        self.start_proxy_with(node, kind, &[])
    }

    /// Starts a proxy with more flags, or other ones, on a node.
    pub fn start_proxy_with(&self, node: &Node, kind: Kind, flags: &[String]) -> Result<()> {
        let origin = match &self.cluster {
            Cluster::Api { control, .. } => {
                Origin::Kubeconfig(lock(control).kubeconfig(Identity::Proxy))
            }
            Cluster::Source(source) => Origin::Source(lock(source).folder().to_owned()),
        };
        if kind.has_xdp() {
            wire::like_cable(&self.bridge, node.spec.short(), true)?;
        }
        let proxy = Proxy::start(node, kind, &origin, flags)?;
        let old = lock(&self.proxies).insert(node.spec.name, proxy);
        ensure!(old.is_none(), "{} had a proxy already", node.spec.name);
        Ok(())
    }

    /// Waits until the proxy of a node is healthy.
    pub fn wait_proxy(&self, node: &Node) -> Result<()> {
        let mut proxies = lock(&self.proxies);
        proxies.get_mut(node.spec.name).context("no proxy runs")?.wait_healthy(&node.space)
    }

    /// Takes the proxy of a node out of the lab's hands, to stop or kill it.
    pub fn take_proxy(&self, node: &Node) -> Result<Proxy> {
        lock(&self.proxies).remove(node.spec.name).context("no proxy runs")
    }

    /// Id of the process of a node's proxy.
    pub fn proxy_pid(&self, node: &Node) -> Result<u32> {
        lock(&self.proxies).get(node.spec.name).map(Proxy::pid).context("no proxy runs")
    }

    /// What the proxies of all nodes were last started as, with which flags.
    pub fn last_start(&self) -> Option<(Kind, Vec<String>)> {
        lock(&self.last_start).clone()
    }

    /// Whether the lab has the proxy of a node, and it has not ended.
    pub fn proxy_runs(&self, node: &Node) -> bool {
        lock(&self.proxies).get_mut(node.spec.name).is_some_and(Proxy::runs)
    }

    /// Stops the proxies of all nodes and takes away what they leave.
    pub fn stop_proxies(&self) -> Result<()> {
        for node in &self.nodes {
            let proxy = self.take_proxy(node)?;
            let kind = proxy.kind();
            proxy.stop()?;
            proxy::clean(node, kind)?;
            if kind.has_xdp() {
                wire::like_cable(&self.bridge, node.spec.short(), false)?;
            }
        }
        Ok(())
    }

    /// Takes the lab down and reports what could not be cleared up.
    pub fn down(mut self) -> Result<()> {
        self.keeper.finish()
    }

    /// The number of the pod's address in the ranges of its node.
    fn next_index(&self, spec: &PodSpec) -> Result<u8> {
        if spec.host_network || self.topology.wiring == Wiring::Agent {
            return Ok(0);
        }
        if let Some(index) = spec.index {
            return Ok(index);
        }
        let mut next = lock(&self.next_address);
        let next = next.entry(spec.node.name).or_insert(1);
        *next = next.checked_add(1).context("no pod addresses are left")?;
        Ok(*next)
    }

    /// Makes a pod that runs and serves, but that nobody registers; [`Self::stop_pod`] ends it.
    pub fn run_pod(&self, spec: PodSpec) -> Result<Arc<Pod>> {
        self.make_pod(self.next_index(&spec)?, spec)
    }

    fn make_pod(&self, index: u8, spec: PodSpec) -> Result<Arc<Pod>> {
        let node = self.node(spec.node.name)?;
        let cgroup = node.cgroup.join(format!("pod-{}", spec.name));
        let (space, address, device) = if spec.host_network {
            let space = Space::start(&spec.name, &cgroup, Some(node.space.pid()))?;
            (space, node.spec.address(), None)
        } else if self.topology.wiring == Wiring::Agent {
            let space = Space::start(&spec.name, &cgroup, None)?;
            wire::prepare_pod(&space)?;
            let cni::Connection { address, device } = cni::add(node, &space)?;
            (space, address, Some(device))
        } else {
            let device = format!("veth{:04x}{:04x}", std::process::id() & 0xffff, index);
            let space = Space::start(&spec.name, &cgroup, None)?;
            let address = node.spec.pod(index);
            wire::pod(&space, &node.space, node.topology, node.spec, address, &device)?;
            (space, address, Some(device))
        };
        let listen = spec.ports.iter().flat_map(|&port| {
            address.both().into_iter().flat_map(move |ip| {
                [Proto::Tcp, Proto::Udp].map(|proto| (proto, SocketAddr::new(ip, port)))
            })
        });
        space.tell(Op::Serve(listen.collect()))?;
        Ok(Arc::new(Pod { spec, space: Arc::new(space), address, device }))
    }

    /// Writes what `lab exec` and `lab status` of other processes need to know.
    fn write_state(&self) -> Result<()> {
        let state = crate::state::State::of(self);
        fs::write(self.folder.join(crate::state::FILE), serde_json::to_vec_pretty(&state)?)
            .context("write the state of the lab")
    }

    /// The credentials of an identity, in a lab with a control plane.
    pub fn kubeconfig(&self, identity: Identity) -> Option<PathBuf> {
        match &self.cluster {
            Cluster::Api { control, .. } => Some(lock(control).kubeconfig(identity)),
            Cluster::Source(_) => None,
        }
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

fn start_control_plane(node: &Node, bridge: &Space, folder: &Path) -> Result<Cluster> {
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

/// Eight random hexadecimal digits.
fn new_id() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("read a random id")?;
    Ok(uuid.chars().take(8).collect())
}

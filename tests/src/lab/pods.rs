//! Pods of a lab.

use super::{Cluster, Lab};
use crate::{
    cni, host,
    manifest::PodSpec,
    proto::{Op, Proto},
    space::{Space, lock},
    topology::{Dual, Wiring},
    wire,
};
use anyhow::{Context as _, Result, bail};
use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

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

impl Lab {
    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<Arc<Pod>> {
        lock(&self.pods).get(name).cloned().with_context(|| format!("no pod {name}"))
    }

    /// All pods by name.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        lock(&self.pods).values().cloned().collect()
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

    /// Makes a pod that runs and serves, but that nobody registers; [`Self::stop_pod`] ends it.
    pub fn run_pod(&self, spec: PodSpec) -> Result<Arc<Pod>> {
        self.make_pod(self.next_index(&spec)?, spec)
    }

    /// Ends a pod: its object, its process, its namespace.
    pub fn delete_pod(&self, name: &str) -> Result<()> {
        let pod = lock(&self.pods).remove(name).with_context(|| format!("no pod {name}"))?;
        match &self.cluster {
            Cluster::Api { client, .. } => client.delete_pod(name, Duration::ZERO)?,
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
            Cluster::Api { client, .. } => client.delete_pod(name, Duration::from_mins(10)),
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
}

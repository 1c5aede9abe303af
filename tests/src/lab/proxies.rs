//! The proxies on the nodes of a lab.

use super::{Cluster, Lab, Node};
use crate::{
    control::Identity,
    proxy::{self, Kind, Origin, Proxy},
    space::lock,
    wire,
};
use anyhow::{Context as _, Result, ensure};

impl Lab {
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
}

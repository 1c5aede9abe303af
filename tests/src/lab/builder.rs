//! What a lab is to be.

use super::Lab;
use crate::{
    host,
    manifest::PodSpec,
    proxy::Kind,
    topology::{MYK8S, Topology},
};
use anyhow::{Result, bail};

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
}

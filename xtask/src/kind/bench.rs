//! The benchmark's pods in a kind cluster that is there, with whatever proxy it has.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Options, available, cluster::Cluster, cluster::node_exec, docker};
use crate::{build, paths, process};

/// The pods and Services, with `AGNHOST_IMAGE`, `HOME_NODE` and `AWAY_NODE` to be filled in.
const OBJECTS: &str = include_str!("bench.yaml");

/// Where a node gets the program: not below a folder that is a mount there.
const LOAD: &str = "/bench-load";

/// Pods in a cluster, while the benchmark runs.
pub(crate) struct Bench {
    cluster: Cluster,
    objects: String,
}

impl Bench {
    /// Puts the pods into the cluster, on two nodes.
    ///
    /// # Errors
    ///
    /// When there is no such cluster, or it has but one node, or the pods do not start.
    pub(crate) fn prepare(options: &Options) -> Result<Self> {
        let name = &options.kind_cluster;
        let cluster = if available() { Cluster::existing(name)? } else { None };
        let cluster = cluster.with_context(|| {
            format!("no kind cluster {name:?} is there; cargo xtask run --on kind makes one")
        })?;
        let load = build::load()?;
        let nodes = cluster.nodes()?;
        let [.., home, away] = &nodes[..] else {
            bail!("the kind cluster {name} has no two nodes")
        };
        for node in [home, away] {
            copy(&load, node)?;
        }
        let objects = OBJECTS
            .replace("AGNHOST_IMAGE", &options.agnhost_image)
            .replace("HOME_NODE", home)
            .replace("AWAY_NODE", away);
        let bench = Self { cluster, objects };
        bench.cluster.apply(&bench.objects)?;
        Ok(bench)
    }

    /// Writes what the benchmark has to know. Returns where.
    ///
    /// # Errors
    ///
    /// When a pod does not start, or the node's proxy does not tell what it is.
    pub(crate) fn describe(&self) -> Result<PathBuf> {
        let (home, client) = self.load("bench-client")?;
        let mode = ["curl", "-sS", "--max-time", "5", "http://127.0.0.1:10249/proxyMode"];
        let description = json!({
            "proxy_mode": node_exec(&home, &mode).context("which proxy the node has")?,
            "client": client,
            "near": self.destination("bench-near")?,
            "far": self.destination("bench-far")?,
        });
        let path = paths::target().join("bench-kind.json");
        fs::write(&path, description.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn destination(&self, name: &str) -> Result<Value> {
        let (_, load) = self.load(name)?;
        let pod = self.cluster.field("pod", name, ".status.podIP")?;
        let service = self.cluster.field("service", name, ".spec.clusterIP")?;
        Ok(json!({"load": load, "pod": pod, "service": service}))
    }

    /// The node of a pod, and the command line that runs the load in the pod's network.
    fn load(&self, pod: &str) -> Result<(String, Vec<String>)> {
        self.cluster.wait_for_pod(pod)?;
        let node = self.cluster.field("pod", pod, ".spec.nodeName")?;
        let script = format!(
            "crictl inspect -o go-template --template '{{{{.info.pid}}}}' \
             $(crictl ps -q --label io.kubernetes.pod.name={pod})"
        );
        let pid = node_exec(&node, &["sh", "-c", &script])?;
        let net = format!("--net=/proc/{}/ns/net", pid.trim());
        let docker = docker();
        let words = [docker.get_program()].into_iter().chain(docker.get_args());
        let mut line: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        line.extend(["exec", "-i", &node, "nsenter", &net, LOAD].map(str::to_owned));
        Ok((node, line))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.delete(&self.objects) {
            eprintln!("the pods of the benchmark stay behind: {error:#}");
        }
    }
}

fn copy(program: &Path, node: &str) -> Result<()> {
    let mut copy = docker();
    copy.arg("cp").arg(program).arg(format!("{node}:{LOAD}"));
    process::output(&mut copy).map(drop)
}

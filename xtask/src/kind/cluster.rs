//! One kind cluster, and datapath on it.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{docker, kind};
use crate::{paths, process};

/// Making a cluster takes half a minute when the node image is there; pulling it may take long.
const CREATE_LIMIT: Duration = Duration::from_mins(15);

/// Where the manifests are put in the control-plane node, for its kubectl. Not below `/tmp`, `/run`
/// or `/var`: those are mounts that `docker cp` does not see.
const MANIFESTS: &str = "/datapath-manifests";

/// A running cluster.
pub(crate) struct Cluster {
    name: String,
}

impl Cluster {
    /// The cluster of this name, made if there is none.
    pub(crate) fn ensure(name: &str, node_image: Option<&str>) -> Result<Self> {
        if let Some(cluster) = Self::existing(name)? {
            eprintln!("==> using the kind cluster {name}, which exists already");
            return Ok(cluster);
        }
        eprintln!(
            "==> making the kind cluster {name} from manifests/kind.yaml, without kube-proxy"
        );
        let mut command = kind();
        command.args(["create", "cluster", "--name", name, "--wait", "180s", "--config"]);
        command.arg(paths::root().join("manifests/kind.yaml"));
        if let Some(image) = node_image {
            command.args(["--image", image]);
        }
        process::logged("kind create cluster", "kind-create", &mut command, CREATE_LIMIT)?;
        Ok(Self { name: name.to_owned() })
    }

    /// The cluster of this name, if there is one.
    pub(crate) fn existing(name: &str) -> Result<Option<Self>> {
        let clusters = process::output(kind().args(["get", "clusters"]))?;
        let exists = clusters.lines().any(|line| line.trim() == name);
        Ok(exists.then(|| Self { name: name.to_owned() }))
    }

    /// The name of the control-plane node, which is its container's too.
    pub(crate) fn control_plane(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// Copies an image of the local Docker into every node.
    pub(crate) fn load(&self, image: &str) -> Result<()> {
        let mut command = kind();
        command.args(["load", "docker-image", image, "--name", &self.name]);
        process::logged("loading the image into the nodes", "kind-load", &mut command, CREATE_LIMIT)
    }

    /// Applies `manifests/` and waits until the agents and the cluster's DNS are ready.
    pub(crate) fn install(&self) -> Result<()> {
        eprintln!("==> applying manifests/");
        let node = self.control_plane();
        process::output(docker().args(["exec", &node, "rm", "-rf", MANIFESTS]))?;
        let mut copy = docker();
        copy.arg("cp").arg(paths::root().join("manifests")).arg(format!("{node}:{MANIFESTS}"));
        process::output(&mut copy)?;
        let before = self.kubectl(&["get", "daemonset", "datapath", "-n", "kube-system"]).is_ok();
        self.kubectl(&["apply", "-k", MANIFESTS])?;
        if before {
            // The image's name is the same as before; what is in it may not be.
            self.kubectl(&["rollout", "restart", "daemonset/datapath", "-n", "kube-system"])?;
        }
        self.rollout("kube-system", "daemonset/datapath")
            .context("the agents are not ready; see: kubectl -n kube-system logs ds/datapath")?;
        // Not its rollout: that has failed for good where the cluster was without Services for long.
        let ready =
            ["wait", "deployment/coredns", "-n", "kube-system", "--for=condition=Available"];
        self.wait("CoreDNS", &ready).context("CoreDNS is not ready")
    }

    /// Waits for a rollout to end.
    pub(crate) fn rollout(&self, namespace: &str, what: &str) -> Result<()> {
        self.wait(what, &["rollout", "status", what, "-n", namespace])
    }

    /// Waits until a kubectl command is satisfied.
    fn wait(&self, what: &str, arguments: &[&str]) -> Result<()> {
        let mut command = docker();
        command.args(self.kubectl_line()).args(arguments).arg("--timeout=180s");
        let log = format!("kind-{}", what.replace('/', "-"));
        process::logged(&format!("waiting for {what}"), &log, &mut command, CREATE_LIMIT)
    }

    /// Runs kubectl and returns what it prints.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        process::output(docker().args(self.kubectl_line()).args(arguments))
    }

    /// Runs a command in a pod of the default namespace.
    pub(crate) fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        let mut command = docker();
        process::output(command.args(self.kubectl_line()).args(["exec", pod, "--"]).args(words))
    }

    /// The names of all nodes, those of workers last.
    pub(crate) fn nodes(&self) -> Result<Vec<String>> {
        let template = r#"jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}"#;
        let nodes = self.kubectl(&["get", "nodes", "-o", template])?;
        let mut nodes: Vec<_> = nodes.lines().map(str::to_owned).collect();
        nodes.sort_by_key(|node| !node.contains("control-plane"));
        Ok(nodes)
    }

    /// A field of an object in the default namespace.
    pub(crate) fn field(&self, kind: &str, name: &str, path: &str) -> Result<String> {
        let path = format!("jsonpath={{{path}}}");
        let value = self.kubectl(&["get", kind, name, "-o", &path])?;
        ensure!(!value.trim().is_empty(), "{kind} {name} has no {path}");
        Ok(value.trim().to_owned())
    }

    /// Waits until a pod of the default namespace is ready.
    pub(crate) fn wait_for_pod(&self, name: &str) -> Result<()> {
        self.kubectl(&["wait", "pod", name, "--for=condition=Ready", "--timeout=120s"]).map(drop)
    }

    /// Applies a manifest from memory.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        self.feed(&["apply", "-f", "-"], manifest)
    }

    /// Deletes what is in a manifest from memory.
    pub(crate) fn delete(&self, manifest: &str) -> Result<()> {
        self.feed(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], manifest)
    }

    /// Runs kubectl with an input.
    fn feed(&self, arguments: &[&str], input: &str) -> Result<()> {
        let mut command = docker();
        command.args(["exec", "-i", &self.control_plane(), "kubectl"]);
        command.arg("--kubeconfig=/etc/kubernetes/admin.conf").args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut pipe = child.stdin.take().context("kubectl without an input")?;
        pipe.write_all(input.as_bytes())?;
        drop(pipe);
        ensure!(child.wait()?.success(), "kubectl {} failed", arguments.join(" "));
        Ok(())
    }

    /// What the agents tell about Services.
    pub(crate) fn services(&self) -> Result<String> {
        self.kubectl(&[
            "exec",
            "-n",
            "kube-system",
            "daemonset/datapath",
            "--",
            "/datapath",
            "service",
            "list",
        ])
    }

    fn kubectl_line(&self) -> [String; 4] {
        let node = self.control_plane();
        ["exec".into(), node, "kubectl".into(), "--kubeconfig=/etc/kubernetes/admin.conf".into()]
    }
}

/// Runs a command in a node.
pub(crate) fn node_exec(node: &str, words: &[&str]) -> Result<String> {
    process::output(docker().args(["exec", node]).args(words))
}

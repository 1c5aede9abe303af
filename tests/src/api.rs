//! The cluster's objects through the real API server.

use crate::{
    control::{ControlPlane, Identity, PROXY_USER},
    manifest::{self, PodSpec, pod_status},
    space::Space,
    topology::{Dual, NodeSpec},
};
use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

/// How long the API server may take to become ready.
const PATIENCE: Duration = Duration::from_secs(90);
/// Requests under way at once when many objects are written.
const PARALLEL: usize = 32;
const RBAC: &str = "rbac.authorization.k8s.io";

/// A client of the API server, whose connections start in the namespace of the bridge.
pub struct ApiClient {
    runtime: Runtime,
    client: Client,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").finish_non_exhaustive()
    }
}

impl ApiClient {
    /// Waits for the API server and connects to it as administrator.
    pub fn connect(bridge: &Space, control: &mut ControlPlane) -> Result<Self> {
        let runtime = runtime_in(bridge)?;
        let file = control.kubeconfig(Identity::Admin);
        let deadline = Instant::now() + PATIENCE;
        loop {
            control.check()?;
            let file = file.clone();
            let attempt = runtime.block_on(runtime.spawn(async move {
                let client = client(&file).await?;
                Api::<Namespace>::all(client.clone()).get("default").await?;
                // Among the last things that a new API server makes.
                Api::<ClusterRoleBinding>::all(client.clone()).get("system:node-proxier").await?;
                anyhow::Ok(client)
            }))?;
            match attempt {
                Ok(client) => return Ok(Self { runtime, client }),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the API server does not become ready"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Runs a task with the client and waits for it.
    pub fn run<F, T>(&self, task: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        // The task must run on a thread of the runtime, for only those are in the namespace.
        let task = self.runtime.spawn(task(self.client.clone()));
        self.runtime.block_on(task).context("the task panicked")?
    }

    /// Gives the proxies what our manifests give the agents beyond the rights of kube-proxy.
    pub fn grant_manifests(&self) -> Result<()> {
        let roles = manifest::cluster_roles()?;
        self.run(|client| async move {
            for role in roles {
                let name = role.metadata.name.clone().context("a role without a name")?;
                let binding = serde_json::from_value(json!({
                    "metadata": {"name": name},
                    "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
                    "subjects": [{"apiGroup": RBAC, "kind": "User", "name": PROXY_USER}],
                }))?;
                let params = PostParams::default();
                Api::<ClusterRole>::all(client.clone()).create(&params, &role).await?;
                Api::<ClusterRoleBinding>::all(client.clone()).create(&params, &binding).await?;
            }
            Ok(())
        })
    }

    /// Registers nodes as the lab has them.
    pub fn add_nodes(&self, specs: &[NodeSpec]) -> Result<()> {
        self.add_node_objects(specs.iter().map(manifest::node).collect())
    }

    /// Registers nodes with their status.
    pub fn add_node_objects(&self, nodes: Vec<Value>) -> Result<()> {
        self.run(|client| async move {
            try_join_all(nodes.into_iter().map(|object| {
                let api = Api::<Node>::all(client.clone());
                async move {
                    let node: Node = serde_json::from_value(object.clone())?;
                    let name = node.metadata.name.clone().unwrap_or_default();
                    api.create(&PostParams::default(), &node).await?;
                    let status = json!({"status": object["status"]});
                    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
                    // Admission taints new nodes until something reports them ready.
                    let ready = json!({"spec": {"taints": null}});
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(ready)).await?;
                    anyhow::Ok(())
                }
            }))
            .await
            .map(drop)
        })
    }

    /// Registers pods that run and are ready.
    pub fn add_pods(&self, pods: &[(PodSpec, Dual)]) -> Result<()> {
        let pods = pods.to_vec();
        self.run(|client| async move {
            let api = &Api::<Pod>::default_namespaced(client);
            for chunk in pods.chunks(PARALLEL) {
                try_join_all(chunk.iter().map(|(spec, address)| async move {
                    let object = serde_json::from_value(spec.object())?;
                    api.create(&PostParams::default(), &object).await?;
                    let status = json!({"status": pod_status(*address, spec.node, true)});
                    let patch = Patch::Merge(status);
                    api.patch_status(&spec.name, &PatchParams::default(), &patch).await?;
                    anyhow::Ok(())
                }))
                .await?;
            }
            Ok(())
        })
    }

    /// Sets the conditions of a pod.
    pub fn set_ready(&self, spec: &PodSpec, address: Dual, ready: bool) -> Result<()> {
        let status = json!({"status": pod_status(address, spec.node, ready)});
        let name = spec.name.clone();
        self.run(|client| async move {
            let api = Api::<Pod>::default_namespaced(client);
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            Ok(())
        })
    }

    /// Deletes a pod; with a grace period it stays, terminating, as no kubelet confirms its end.
    pub fn delete_pod(&self, name: &str, grace: Duration) -> Result<()> {
        let name = name.to_owned();
        let params = DeleteParams {
            grace_period_seconds: Some(grace.as_secs() as u32),
            ..DeleteParams::default()
        };
        self.run(|client| async move {
            Api::<Pod>::default_namespaced(client).delete(&name, &params).await?;
            Ok(())
        })
    }

    /// Creates Services and returns them with what the API server filled in.
    pub fn create_services(&self, objects: Vec<Value>) -> Result<Vec<Value>> {
        self.run(|client| async move {
            let api = &Api::<Service>::default_namespaced(client);
            let mut created = Vec::with_capacity(objects.len());
            for chunk in objects.chunks(PARALLEL) {
                let part = try_join_all(chunk.iter().map(|object| async move {
                    let object = serde_json::from_value(object.clone())?;
                    let service = api.create(&PostParams::default(), &object).await?;
                    anyhow::Ok(serde_json::to_value(service)?)
                }))
                .await?;
                created.extend(part);
            }
            Ok(created)
        })
    }

    /// Merges into a Service; a `status` in the patch goes to the status.
    pub fn patch_service(&self, name: &str, patch: &Value) -> Result<Value> {
        let (name, patch) = (name.to_owned(), patch.clone());
        self.run(|client| async move {
            let api = Api::<Service>::default_namespaced(client);
            let params = PatchParams::default();
            let merge = Patch::Merge(&patch);
            let service = if patch.get("status").is_some() {
                api.patch_status(&name, &params, &merge).await?
            } else {
                api.patch(&name, &params, &merge).await?
            };
            Ok(serde_json::to_value(service)?)
        })
    }

    /// Deletes Services.
    pub fn delete_services(&self, names: &[String]) -> Result<()> {
        let names = names.to_vec();
        self.run(|client| async move {
            let api = &Api::<Service>::default_namespaced(client);
            for chunk in names.chunks(PARALLEL) {
                try_join_all(chunk.iter().map(|name| async move {
                    api.delete(name, &DeleteParams::default()).await?;
                    anyhow::Ok(())
                }))
                .await?;
            }
            Ok(())
        })
    }

    /// Creates EndpointSlices, or replaces those of the same names.
    pub fn apply_slices(&self, objects: Vec<Value>) -> Result<()> {
        self.run(|client| async move {
            let api = &Api::<EndpointSlice>::default_namespaced(client);
            let params = &PatchParams::apply("lab").force();
            for chunk in objects.chunks(PARALLEL) {
                try_join_all(chunk.iter().map(|object| async move {
                    let name =
                        object["metadata"]["name"].as_str().context("a slice without name")?;
                    api.patch(name, params, &Patch::Apply(object)).await?;
                    anyhow::Ok(())
                }))
                .await?;
            }
            Ok(())
        })
    }

    /// Deletes EndpointSlices.
    pub fn delete_slices(&self, names: Vec<String>) -> Result<()> {
        self.run(|client| async move {
            let api = &Api::<EndpointSlice>::default_namespaced(client);
            for chunk in names.chunks(PARALLEL) {
                try_join_all(chunk.iter().map(|name| async move {
                    api.delete(name, &DeleteParams::default()).await?;
                    anyhow::Ok(())
                }))
                .await?;
            }
            Ok(())
        })
    }

    /// Merges into a Node.
    pub fn patch_node(&self, name: &str, patch: &Value) -> Result<()> {
        let (name, patch) = (name.to_owned(), patch.clone());
        self.run(|client| async move {
            let api = Api::<Node>::all(client);
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            Ok(())
        })
    }
}

/// A runtime all of whose threads, and so all of whose sockets, are in a namespace.
fn runtime_in(space: &Space) -> Result<Runtime> {
    let path = format!("/proc/{}/ns/net", space.pid());
    let net = File::open(&path).with_context(|| format!("open {path}"))?;
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("lab-api")
        .on_thread_start(move || {
            if let Err(error) = setns(&net, CloneFlags::CLONE_NEWNET) {
                tracing::error!(%error, "cannot enter the namespace of the bridge");
            }
        })
        .enable_all()
        .build()
        .context("start a runtime")
}

async fn client(file: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(file)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

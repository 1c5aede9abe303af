//! Putting a lab in order: after a case that failed, or one that changed its Nodes.

use crate::{
    api::ApiClient,
    lab::{self, Lab},
    suite::eventually,
};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// How long the control plane may take to be back.
const PATIENCE: Duration = Duration::from_mins(1);
/// The API server's own Service.
const KUBERNETES: &str = "kubernetes";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is in a lab at some time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    services: BTreeSet<String>,
    pods: BTreeSet<String>,
    nodes: Vec<Node>,
}

impl Lab {
    /// What is in the lab now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let api = self.api()?;
        let pods = self.pods().iter().map(|pod| pod.spec.name.clone()).collect();
        Ok(Snapshot { services: services(api)?, pods, nodes: nodes(api)? })
    }

    /// Takes away what was added since, and has all Nodes, the API server and the proxies back.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        self.revive_api_server()?;
        let api = self.api()?;
        eventually(PATIENCE, || services(api).map(drop)).context("the API server is away")?;
        let gone: Vec<_> = services(api)?.difference(&snapshot.services).cloned().collect();
        api.delete_services(&gone)?;
        delete_slices(api, &snapshot.services)?;
        for pod in self.pods() {
            if !snapshot.pods.contains(&pod.spec.name) {
                self.delete_pod(&pod.spec.name)?;
            }
        }
        self.restore_nodes(snapshot)?;
        self.revive_proxies()
    }

    /// Has every Node as it was: its labels, taints, ranges of pods and addresses.
    pub fn restore_nodes(&self, snapshot: &Snapshot) -> Result<()> {
        let api = self.api()?;
        let current = nodes(api)?;
        for node in &snapshot.nodes {
            let name = node.metadata.name.clone().unwrap_or_default();
            let now = current.iter().find(|now| now.metadata.name == node.metadata.name);
            match now {
                Some(now) if same(now, node) => continue,
                // The API server lets nobody change the ranges of a Node.
                Some(now) if ranges(now) == ranges(node) => {}
                Some(_) => {
                    delete_node(api, &name)?;
                    create_node(api, node)?;
                }
                None => create_node(api, node)?,
            }
            replace(api, node)?;
        }
        let current = nodes(api)?;
        for node in &snapshot.nodes {
            let now = current.iter().find(|now| now.metadata.name == node.metadata.name);
            ensure!(now.is_some_and(|now| same(now, node)), "a Node is not as it was: {now:?}");
        }
        Ok(())
    }

    /// Starts the API server if it was stopped.
    fn revive_api_server(&self) -> Result<()> {
        if self.has_api_server()? { Ok(()) } else { self.start_api_server() }
    }

    /// Kills the proxies of these nodes as a crash would, and starts them as they were last started.
    pub fn restart_proxies<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a lab::Node>,
    ) -> Result<()> {
        nodes.into_iter().try_for_each(|node| self.take_proxy(node)?.kill())?;
        self.revive_proxies()
    }

    /// Starts, as they were last started, the proxies that do not run.
    pub fn revive_proxies(&self) -> Result<()> {
        let Some((kind, flags)) = self.last_start() else { return Ok(()) };
        for node in self.nodes() {
            if self.proxy_runs(node) {
                continue;
            }
            self.take_proxy(node).ok();
            self.start_proxy_with(node, kind, &flags)?;
        }
        self.nodes().iter().try_for_each(|node| self.wait_proxy(node))
    }
}

fn services(api: &ApiClient) -> Result<BTreeSet<String>> {
    api.run(|client| async move {
        let list = Api::<Service>::default_namespaced(client).list(&ListParams::default()).await?;
        let names = list.items.into_iter().filter_map(|service| service.metadata.name);
        Ok(names.filter(|name| name != KUBERNETES).collect())
    })
}

/// Deletes the slices of all Services but these. Controllers do it too, for those that are their own.
fn delete_slices(api: &ApiClient, but: &BTreeSet<String>) -> Result<()> {
    let but = but.clone();
    api.run(|client| async move {
        let api = Api::<EndpointSlice>::default_namespaced(client);
        for slice in api.list(&ListParams::default()).await?.items {
            let of = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            let keep = of.is_some_and(|of| of == KUBERNETES || but.contains(of));
            if let (false, Some(name)) = (keep, slice.metadata.name) {
                match api.delete(&name, &DeleteParams::default()).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    })
}

fn nodes(api: &ApiClient) -> Result<Vec<Node>> {
    api.run(|client| async move {
        Ok(Api::<Node>::all(client).list(&ListParams::default()).await?.items)
    })
}

/// What a proxy looks at.
fn view(node: &Node) -> Value {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    json!({
        "labels": node.metadata.labels,
        "taints": taints(node),
        "ranges": ranges(node),
        "addresses": addresses,
    })
}

fn same(one: &Node, other: &Node) -> bool {
    view(one) == view(other)
}

fn ranges(node: &Node) -> Option<&Vec<String>> {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref())
}

fn taints(node: &Node) -> Value {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    json!(taints)
}

fn delete_node(api: &ApiClient, name: &str) -> Result<()> {
    let name = name.to_owned();
    api.run(|client| async move {
        Api::<Node>::all(client).delete(&name, &DeleteParams::default()).await?;
        Ok(())
    })
}

fn create_node(api: &ApiClient, node: &Node) -> Result<()> {
    let mut object = Node { status: None, ..node.clone() };
    object.metadata.resource_version = None;
    object.metadata.uid = None;
    api.run(|client| async move {
        Api::<Node>::all(client).create(&PostParams::default(), &object).await?;
        Ok(())
    })
}

/// Writes all that [`view`] shows but the ranges: what the Node had not is taken away.
fn replace(api: &ApiClient, node: &Node) -> Result<()> {
    let node = node.clone();
    let taints = taints(&node);
    api.run(|client| async move {
        let api = Api::<Node>::all(client);
        let name = node.metadata.name.clone().unwrap_or_default();
        let now = api.get(&name).await?;
        let mut labels = json!(node.metadata.labels.clone().unwrap_or_default());
        for label in now.metadata.labels.unwrap_or_default().into_keys() {
            if labels.get(&label).is_none() {
                labels[label] = Value::Null;
            }
        }
        let params = PatchParams::default();
        let patch = json!({"metadata": {"labels": labels}, "spec": {"taints": taints}});
        api.patch(&name, &params, &Patch::Merge(patch)).await?;
        let status = json!({"status": node.status});
        api.patch_status(&name, &params, &Patch::Merge(status)).await?;
        // Admission taints a Node that is new until its taints are written once more.
        let again = json!({"spec": {"taints": taints}});
        api.patch(&name, &params, &Patch::Merge(again)).await?;
        Ok(())
    })
}

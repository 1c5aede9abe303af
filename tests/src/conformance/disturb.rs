//! What cases do to the cluster besides its Services: pods, Nodes and processes.

use super::trial::Trial;
use crate::{manifest, suite::eventually, topology::NodeSpec};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use std::{net::IpAddr, thread, time::Duration};

/// How long the control plane may take to be back.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a proxy has to notice that its Node is gone.
const NOTICE: Duration = Duration::from_secs(3);

impl Trial<'_> {
    /// Kills a node's proxy and starts it again.
    pub fn restart_proxy(&self, node: &NodeSpec) -> Result<()> {
        self.lab().restart_proxies([self.lab().node(node.name)?])
    }

    /// Kills the API server, starts it again and waits until it takes changes.
    pub fn restart_api_server(&self) -> Result<()> {
        self.lab().stop_api_server()?;
        self.lab().start_api_server()?;
        let nothing = json!({"metadata": {"labels": {"restarted": "yes"}}});
        let node = self.lab().nodes().first().context("no nodes")?.spec.name;
        eventually(PATIENCE, || self.lab().patch_node(node, &nothing))
    }

    /// Sets whether a pod of the case is ready.
    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        self.lab().set_ready(&self.name(pod), ready)
    }

    /// Reports a pod of the case as failed, as a kubelet does that evicts it.
    pub fn fail_pod(&self, pod: &str) -> Result<()> {
        let name = self.name(pod);
        self.lab().api()?.run(|client| async move {
            let unready = |kind: &str| json!({"type": kind, "status": "False"});
            let status = json!({"status": {
                "phase": "Failed", "reason": "Evicted",
                "conditions": [unready("Ready"), unready("ContainersReady")],
            }});
            let api = Api::<Pod>::default_namespaced(client);
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            Ok(())
        })
    }

    /// Deletes a Node object.
    pub fn delete_node(&self, node: &'static NodeSpec) -> Result<()> {
        self.lab().api()?.run(|client| async move {
            Api::<Node>::all(client).delete(node.name, &DeleteParams::default()).await?;
            Ok(())
        })?;
        thread::sleep(NOTICE);
        Ok(())
    }

    /// Reports other addresses of a node, as its kubelet would.
    pub fn set_addresses(&self, node: &'static NodeSpec, [v4, v6]: [IpAddr; 2]) -> Result<()> {
        let status = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": v4}, {"type": "InternalIP", "address": v6},
            {"type": "Hostname", "address": node.name},
        ]}});
        self.lab().api()?.run(|client| async move {
            let api = Api::<Node>::all(client);
            api.patch_status(node.name, &PatchParams::default(), &Patch::Merge(status)).await?;
            Ok(())
        })
    }

    /// Registers a Node anew with other podCIDRs: those of a Node that exists nobody may change.
    pub fn set_ranges(&self, node: &'static NodeSpec, ranges: [&str; 2]) -> Result<()> {
        self.delete_node(node)?;
        let mut object = manifest::node(node);
        object["spec"] = json!({"podCIDR": ranges[0], "podCIDRs": ranges});
        self.lab().api()?.add_node_objects(vec![object])
    }

    /// Whether the process of a node's proxy runs.
    pub fn runs_on(&self, node: &NodeSpec) -> Result<()> {
        let pid = self.lab().proxy_pid(self.lab().node(node.name)?)?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("it has ended")?;
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        ensure!(state != Some('Z'), "it has ended");
        Ok(())
    }
}

//! 1,000 Services through the API.

use crate::world::{CLIENT, PATIENCE, Way, World, all, answer};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{discovery::v1::EndpointSlice, networking::v1::ServiceCIDR};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use lab::{
    manifest::{self, POD_PORT},
    proxy,
    suite::{Cases, eventually},
};
use serde_json::{Value, json};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// How many Services.
const COUNT: usize = 1000;
/// How long after the last watch event they must all be served.
const LATENCY: Duration = Duration::from_secs(1);
/// What the agent's memory must stay below, in KiB.
const MEMORY_KIB: u64 = 60 << 10;

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    suite.case("scale::a_thousand_services", || {
        let names: Vec<_> = (0..COUNT).map(|index| format!("scale-{index}")).collect();
        let result = thousand(world, &names);
        world.lab.api()?.delete_services(&names)?;
        result
    });
}

fn thousand(world: &World, names: &[String]) -> Result<()> {
    more_addresses(world)?;
    // Two pods on each node have the label, two of them on one node are enough.
    let spec = json!({
        "selector": {"app": "web", "pair": "yes"},
        "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
        "ports": [{"port": 80, "targetPort": POD_PORT}],
    });
    label_pair(world)?;
    let objects = names.iter().map(|name| manifest::service(name, &spec)).collect();
    let services = world.lab.api()?.create_services(objects)?;
    eventually(Duration::from_mins(1), || all_slices(world))?;
    let known = Instant::now();
    thread::sleep(LATENCY);
    let space = world.space(CLIENT)?;
    all(services.iter().map(|service| {
        let ip = service["spec"]["clusterIP"].as_str().context("no ClusterIP")?;
        let ask = Way::TCP.ask((ip.parse::<std::net::IpAddr>()?, 80).into(), "hostname");
        answer(&space, &ask).map(drop)
    }))
    .with_context(|| format!("{:?} after the last slice", known.elapsed()))?;
    if world.kind.is_datapath() {
        own_view(world)?;
    }
    Ok(())
}

/// The reference cluster has room for 254 Services.
fn more_addresses(world: &World) -> Result<()> {
    world.lab.api()?.run(|client| async move {
        let range: ServiceCIDR = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "more"}, "spec": {"cidrs": ["10.201.0.0/20"]},
        }))?;
        match Api::all(client).create(&PostParams::default(), &range).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    })?;
    // Until the allocator knows the range.
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn label_pair(world: &World) -> Result<()> {
    world.lab.api()?.run(|client| async move {
        let api = Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(client);
        let patch = kube::api::Patch::Merge(json!({"metadata": {"labels": {"pair": "yes"}}}));
        for name in ["web-worker-1", "web-worker2-1"] {
            api.patch(name, &kube::api::PatchParams::default(), &patch).await?;
        }
        Ok(())
    })
}

fn all_slices(world: &World) -> Result<()> {
    world.lab.api()?.run(|client| async move {
        let slices =
            Api::<EndpointSlice>::default_namespaced(client).list(&ListParams::default()).await?;
        let complete = slices
            .items
            .iter()
            .filter(|slice| {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                let endpoints = slice.endpoints.as_ref().map_or(0, Vec::len);
                name.starts_with("scale-") && endpoints == 2
            })
            .count();
        ensure!(complete == COUNT, "{complete} of {COUNT} slices are complete");
        Ok(())
    })
}

/// What the agent itself needs and says.
fn own_view(world: &World) -> Result<()> {
    let node = world.lab.node(world.home.name)?;
    let status = fs::read_to_string(format!("/proc/{}/status", world.lab.proxy_pid(node)?))?;
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .context("no VmHWM")?;
    ensure!(peak < MEMORY_KIB, "the agent used {peak} KiB");
    eventually(PATIENCE, || {
        let output = proxy::datapath(node, &["service", "list", "-o", "json"])?.output()?;
        let ports: Vec<Value> =
            serde_json::from_slice(&output.stdout).context("service list -o json")?;
        let scale = ports
            .iter()
            .filter(|port| port["name"].as_str().is_some_and(|name| name.starts_with("scale-")))
            .filter(|port| port["backends"].as_array().is_some_and(|all| all.len() == 2));
        let listed = scale.count();
        ensure!(listed == COUNT, "service list shows {listed} of {COUNT} with both backends");
        Ok(())
    })
}

//! Services without selectors and their slices, by the thousand.

use crate::load::order::PORT;
use anyhow::Result;
use k8s_openapi::api::{
    core::v1::Service, discovery::v1::EndpointSlice, networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use lab::{Lab, topology::NODES};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    time::Duration,
};

/// Requests under way at once.
const PARALLEL: usize = 32;
/// The first number of Services with many endpoints.
pub const HEAVY: usize = 40_000;
/// Room for the Services, beside the range that the reference cluster has.
const RANGE: &str = "10.201.0.0/16";

/// The ClusterIP of Service number `index`.
pub fn address(index: usize) -> Ipv4Addr {
    let number = index as u16 + 256;
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 201, high, low)
}

/// Lets Services have addresses in [`RANGE`].
pub fn more_addresses(lab: &Lab) -> Result<()> {
    lab.api()?.run(|client| async move {
        let range: ServiceCIDR = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "bench"}, "spec": {"cidrs": [RANGE]},
        }))?;
        Api::all(client).create(&PostParams::default(), &range).await?;
        Ok(())
    })?;
    // Until the allocator knows the range.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Creates Services with these numbers, all before the same pod.
pub fn add_services(lab: &Lab, numbers: Range<usize>, pod: IpAddr) -> Result<()> {
    add(lab, numbers, &endpoints(&[pod], 0, false))
}

/// Creates Services with these numbers, each with as many endpoints that nobody is.
pub fn add_heavy_services(lab: &Lab, numbers: Range<usize>, count: usize) -> Result<()> {
    add(lab, numbers, &endpoints(&[], count, true))
}

fn add(lab: &Lab, numbers: Range<usize>, endpoints: &[Value]) -> Result<()> {
    let slices: Vec<_> = numbers.clone().map(|number| slice(number, endpoints)).collect();
    let services: Vec<_> = numbers.map(service).collect();
    lab.api()?.run(move |client| async move {
        // The slices first: a Service is complete as soon as it is there.
        create::<EndpointSlice>(client.clone(), slices).await?;
        create::<Service>(client, services).await
    })
}

/// Sets the endpoints of Service number `number`: these pods, and others that are not ready.
pub fn set_endpoints(lab: &Lab, number: usize, pods: &[IpAddr], others: usize) -> Result<()> {
    let slice = json!({"endpoints": endpoints(pods, others, false)});
    lab.api()?.run(move |client| async move {
        let api = Api::<EndpointSlice>::default_namespaced(client);
        api.patch(&name(number), &PatchParams::default(), &Patch::Merge(&slice)).await?;
        Ok(())
    })
}

async fn create<K>(client: Client, objects: Vec<Value>) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api = &Api::<K>::default_namespaced(client);
    for chunk in objects.chunks(PARALLEL) {
        let created = chunk.iter().map(|object| async move {
            let object = serde_json::from_value(object.clone())?;
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(error) => Err(anyhow::Error::from(error)),
            }
        });
        futures::future::try_join_all(created).await?;
    }
    Ok(())
}

fn name(number: usize) -> String {
    format!("bench-{number}")
}

fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name(number), "namespace": "default"},
        "spec": {
            "clusterIP": address(number),
            "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}],
        },
    })
}

fn slice(number: usize, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name(number), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name(number)},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}],
    })
}

/// Endpoints that are ready, and `others` that may be, at addresses that nobody has.
fn endpoints(pods: &[IpAddr], others: usize, ready: bool) -> Vec<Value> {
    let endpoint = |address: IpAddr, ready: bool| {
        json!({
            "addresses": [address], "conditions": {"ready": ready}, "nodeName": NODES[2].name,
        })
    };
    let nobody = (0..others as u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        endpoint([10, 251, high, low].into(), ready)
    });
    pods.iter().map(|pod| endpoint(*pod, true)).chain(nobody).collect()
}

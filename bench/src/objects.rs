//! Services without selectors and their slices, by the thousand.
//!
//! They go to etcd directly, as the objects that the API server would have put there: with each Service
//! that it creates itself, it counts all the addresses that are taken, so that 30,000 of them take more than
//! ten minutes of two CPUs. They are spread over namespaces, as in a cluster that has so many: for each Service
//! kube-controller-manager looks through all slices of its namespace.

use crate::load::order::PORT;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    ByteString,
    api::{core::v1::Service, discovery::v1::EndpointSlice, networking::v1::ServiceCIDR},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams, Request},
};
use lab::{Lab, control::ETCD_PORT, topology::NODES};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

/// Keys of a transaction: it may have 128, and at most 1.5 MiB.
const TOGETHER: usize = 32;
/// Services of a namespace.
const PER_NAMESPACE: usize = 500;
/// The first number of Services with many endpoints.
pub const HEAVY: usize = 40_000;
/// Room for the Services, beside the range that the reference cluster has.
const RANGE: &str = "10.201.0.0/16";
/// How long the API server may take until it knows what is in etcd.
const PATIENCE: Duration = Duration::from_mins(1);

/// The ClusterIP of Service number `index`.
pub fn address(index: usize) -> Ipv4Addr {
    let number = index as u16 + 256;
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 201, high, low)
}

/// Lets Services have addresses in [`RANGE`].
pub fn more_addresses(lab: &Lab) -> Result<()> {
    lab.api()?.run(|client| async move {
        let range = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "bench"}, "spec": {"cidrs": [RANGE]},
        }))?;
        Api::<ServiceCIDR>::all(client).create(&PostParams::default(), &range).await?;
        Ok(())
    })
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
    let Some(last) = numbers.clone().last() else { return Ok(()) };
    let put = |(key, object): (String, Value)| {
        let (key, value) = (ByteString(key.into()), ByteString(object.to_string().into()));
        json!({"requestPut": {"key": key, "value": value}})
    };
    let namespaces = numbers.start / PER_NAMESPACE..=last / PER_NAMESPACE;
    change(lab, namespaces.map(namespace_object).map(put).collect())?;
    change(lab, numbers.flat_map(|number| objects(number, endpoints)).map(put).collect())?;
    let begin = Instant::now();
    while !is_seen(lab, last)? {
        ensure!(begin.elapsed() < PATIENCE, "the API server does not see {}", name(last));
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether the API server would tell a watcher about a Service.
fn is_seen(lab: &Lab, number: usize) -> Result<bool> {
    lab.api()?.run(move |client| async move {
        let named = ListParams::default().fields(&format!("metadata.name={}", name(number)));
        let services = Api::<Service>::namespaced(client, &namespace(number));
        Ok(!services.list(&named.match_any()).await?.items.is_empty())
    })
}

/// Deletes the Services with these numbers.
pub fn delete_services(lab: &Lab, numbers: Range<usize>) -> Result<()> {
    let delete =
        |(key, _): (String, Value)| json!({"requestDeleteRange": {"key": ByteString(key.into())}});
    change(lab, numbers.flat_map(|number| objects(number, &[])).map(delete).collect())
}

/// Sets the endpoints of Service number `number`: these pods, and others that are not ready.
pub fn set_endpoints(lab: &Lab, number: usize, pods: &[IpAddr], others: usize) -> Result<()> {
    let slice = json!({"endpoints": endpoints(pods, others, false)});
    lab.api()?.run(move |client| async move {
        let api = Api::<EndpointSlice>::namespaced(client, &namespace(number));
        api.patch(&name(number), &PatchParams::default(), &Patch::Merge(&slice)).await?;
        Ok(())
    })
}

/// Has etcd do all of this, a part at a time (its JSON gateway, since etcd 3.4).
fn change(lab: &Lab, operations: Vec<Value>) -> Result<()> {
    lab.api()?.run(move |_| async move {
        let address = format!("http://{}:{ETCD_PORT}", NODES[0].address().v4);
        let etcd = Client::try_from(Config::new(address.parse()?))?;
        for part in operations.chunks(TOGETHER) {
            let transaction = serde_json::to_vec(&json!({"success": part}))?;
            let request = Request::new("/v3/kv/txn").create(&PostParams::default(), transaction)?;
            let answer: Value = etcd.request(request).await.context("etcd")?;
            ensure!(answer["succeeded"] == true, "etcd refuses: {answer}");
        }
        Ok(())
    })
}

fn name(number: usize) -> String {
    format!("bench-{number}")
}

fn namespace(number: usize) -> String {
    format!("bench-{}", number / PER_NAMESPACE)
}

/// Where etcd has a namespace, and what.
fn namespace_object(index: usize) -> (String, Value) {
    let name = namespace(index * PER_NAMESPACE);
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": metadata(&name, 0, index),
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    (format!("/registry/namespaces/{name}"), object)
}

/// Where etcd has what makes a Service, and what: its address, its slice, and itself, which comes last, for it
/// is complete as soon as it is there.
fn objects(number: usize, endpoints: &[Value]) -> [(String, Value); 3] {
    let (namespace, name, address) = (namespace(number), name(number), address(number));
    let port = json!({"name": "tcp", "port": PORT, "protocol": "TCP"});
    let mut taken = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": metadata(&address.to_string(), 1, number),
        "spec": {"parentRef": {
            "group": "", "resource": "services", "namespace": namespace, "name": name,
        }},
    });
    taken["metadata"]["labels"] = json!({
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        "ipaddress.kubernetes.io/ip-family": "IPv4",
    });
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": metadata(&name, 2, number),
        "addressType": "IPv4", "endpoints": endpoints, "ports": [port],
    });
    slice["metadata"]["namespace"] = json!(namespace);
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": name});
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata(&name, 3, number),
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "ports": [port],
        },
    });
    service["metadata"]["namespace"] = json!(namespace);
    [
        (format!("/registry/ipaddresses/{address}"), taken),
        (format!("/registry/endpointslices/{namespace}/{name}"), slice),
        (format!("/registry/services/specs/{namespace}/{name}"), service),
    ]
}

/// What the API server gives to each object; `kind` and `number` make the identity unique. An address
/// that is older than a minute when its Service is not seen yet would be taken for leaked, and repaired.
fn metadata(name: &str, kind: u8, number: usize) -> Value {
    json!({
        "name": name,
        "uid": format!("00000000-0000-4000-800{kind}-{number:012}"),
        "creationTimestamp": Timestamp::now().to_string(),
        "generation": 1,
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

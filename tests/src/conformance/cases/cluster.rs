//! Sections 1.2 and 1.11: a cluster that changes while its Services stay. Addresses and ranges of nodes,
//! ranges of Services.

use super::super::{
    KUBE_PROXY,
    case::{Case, Setup, case, masked, otherwise, reach},
    place::{
        CLUSTER_IP, ELSEWHERE, ELSEWHERE_POD, HOME, NEAR, NODE, OUTSIDE_CLIENT, POD, TCP, THIRD,
        THIRD_NODE_PORT,
    },
    probe::who,
    trial::Trial,
};
use crate::{
    proto::{Op, Proto},
    suite::eventually,
    topology::{Family, OUTSIDE, OUTSIDE_ADDRESS},
};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn cases() -> Vec<Case> {
    vec![addresses(), ranges(), service_ranges()]
}

/// Addresses of the node network that no node has in the beginning.
const OTHER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 18, 0, 44)),
    IpAddr::V6(Ipv6Addr::new(0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 0x44)),
];

fn addresses() -> Case {
    case("1.11", "node-addresses-change", "NodePorts follow the primary addresses of the node")
        .alone()
        .service(json!({"type": "NodePort"}))
        .endpoints(&[NEAR, THIRD])
        .expect(&[OUTSIDE_CLIENT], THIRD_NODE_PORT, masked(&[NEAR, THIRD]))
        .then("the third node and its Node get other addresses", |trial| {
            let [v4, v6] = OTHER;
            let lines =
                format!("addr replace {v4}/16 dev eth0\naddr replace {v6}/64 dev eth0 nodad\n");
            trial.lab().node(ELSEWHERE.name)?.space.ip(&lines)?;
            trial.set_addresses(ELSEWHERE, OTHER)
        })
        .check("they are served at these alone", |trial| served_at(trial, OTHER))
        .but(
            KUBE_PROXY,
            otherwise(),
            "kube-proxy 1.36 takes its node's addresses once, at its start",
        )
        .then("the Node has its addresses back", settle)
        .check("they are served at those of before alone", |trial| {
            served_at(trial, ELSEWHERE.address().both())
        })
        .then("the node is as it was", |trial| {
            let [v4, v6] = OTHER;
            let lines = format!("addr del {v4}/16 dev eth0\naddr del {v6}/64 dev eth0\n");
            trial.lab().node(ELSEWHERE.name)?.space.ip(&lines)
        })
        .expect(&[OUTSIDE_CLIENT], THIRD_NODE_PORT, masked(&[NEAR, THIRD]))
}

/// Waits until the third node, which has all of them, serves the NodePort at these addresses alone.
/// A proxy that ends when its Node changes so is started again, as a kubelet would.
fn served_at(trial: &Trial<'_>, addresses: [IpAddr; 2]) -> Result<()> {
    let stays = !trial.column().is_ours() && addresses == OTHER;
    let patience = if stays { Duration::from_secs(5) } else { PATIENCE };
    let space = trial.lab().space(OUTSIDE)?;
    let port = trial.service("")?.node_port(0)?;
    eventually(patience, || {
        trial.lab().revive_proxies()?;
        for address in OTHER.into_iter().chain(ELSEWHERE.address().both()) {
            let served = space.http(SocketAddr::new(address, port), "/")?.answer().is_some();
            let wanted = addresses.contains(&address);
            ensure!(served == wanted, "{address}: served {served}, wanted {wanted}");
        }
        Ok(())
    })
}

/// All Nodes as they were, and seen so.
fn settle(trial: &Trial<'_>) -> Result<()> {
    trial.settle_nodes()
}

fn ranges() -> Case {
    case("1.11", "node-ranges-change", "NodeCIDR: who is local follows the podCIDRs of the Node")
        .under(Setup::NodeRanges)
        .alone()
        .service(json!({}))
        .endpoints(&[NEAR, THIRD])
        .expect(&[ELSEWHERE_POD], CLUSTER_IP, reach(&[NEAR, THIRD]))
        .then("the third Node comes again with other podCIDRs", |trial| {
            trial.set_ranges(ELSEWHERE, ["10.10.77.0/24", "fd00:10:10:77::/64"])?;
            restart_kube_proxy(trial)
        })
        .check("the pod of before is masqueraded", |trial| is_local(trial, false))
        .then("the Node has its podCIDRs back", |trial| {
            trial.settle_nodes()?;
            restart_kube_proxy(trial)
        })
        .check("it is not any more", |trial| is_local(trial, true))
        .expect(&[ELSEWHERE_POD], CLUSTER_IP, reach(&[NEAR, THIRD]))
}

/// kube-proxy need not follow the ranges of its Node: it is enough if it takes them at its start.
fn restart_kube_proxy(trial: &Trial<'_>) -> Result<()> {
    if trial.column().is_ours() {
        return Ok(());
    }
    let node = trial.lab().node(ELSEWHERE.name)?;
    trial.lab().restart_proxies([node])
}

/// Waits until backends see the pod of the third node as itself, or as its node.
fn is_local(trial: &Trial<'_>, local: bool) -> Result<()> {
    let pod = trial.lab().pod(ELSEWHERE_POD.space)?;
    eventually(PATIENCE, || {
        trial.lab().revive_proxies()?;
        for family in Family::ALL {
            let verdict = trial.ask(ELSEWHERE_POD, TCP, CLUSTER_IP, family)?;
            let (_, source) =
                verdict.answer().and_then(who).with_context(|| format!("IP{family}: {verdict}"))?;
            ensure!((source == pod.address.get(family)) == local, "it is seen as {source}");
        }
        Ok(())
    })
}

/// The range that comes and goes, as the object and its parts.
const RANGE: &str = "added";
const RANGES: [&str; 2] = ["10.202.0.0/24", "fd00:10:202::/112"];
/// One of its addresses that no Service has, and what a Service asks for.
const FREE: [&str; 2] = ["10.202.0.9", "fd00:10:202::9"];
const TAKEN: [&str; 2] = ["10.202.0.20", "fd00:10:202::20"];

/// A server outside has an address that the range takes over: so it shows what is kept from leaving the
/// node, and what is not.
fn service_ranges() -> Case {
    const NO_RULE: &str = "iptables mode has no rule for it, and nftables mode of 1.36 writes its own \
                           again only with all others: it leaves by the default route";
    case("1.2", "service-range-added", "A ServiceCIDR that is added and goes, live")
        .alone()
        .then("a server outside has addresses of the range", |trial| {
            let outside = trial.lab().space(OUTSIDE)?;
            let home = trial.lab().node(HOME.name)?;
            for (address, via) in FREE.into_iter().zip(OUTSIDE_ADDRESS.both()) {
                let (length, flag) = if via.is_ipv4() { (32, "") } else { (128, "nodad") };
                outside.ip(&format!("addr replace {address}/{length} dev lo {flag}\n"))?;
                home.space.ip(&format!("route replace {address}/{length} via {via}\n"))?;
                let to = SocketAddr::new(address.parse()?, 80);
                // It goes on serving for the columns that follow: nothing ends it.
                eventually(PATIENCE, || {
                    if outside.http(to, "/")?.answer().is_none() {
                        outside.tell(Op::Serve(vec![(Proto::Tcp, to)]))?;
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })
        .check("the node reaches it", |trial| reaches_outside(trial, true))
        .then("the range is added", add_range)
        .then("a Service has an address of it", |trial| {
            let spec = json!({"clusterIP": TAKEN[0], "clusterIPs": TAKEN});
            // The allocator comes to know of the range some time later.
            eventually(PATIENCE, || trial.create("", &spec))?;
            trial.set_endpoints("", &[NEAR])
        })
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
        .check("the node does not reach the server outside", |trial| reaches_outside(trial, false))
        .but(KUBE_PROXY, otherwise(), NO_RULE)
        .then("the Service and the range go", |trial| {
            trial.delete("")?;
            remove_range(trial)
        })
        .check("the node reaches it again", |trial| reaches_outside(trial, true))
}

fn reaches_outside(trial: &Trial<'_>, wanted: bool) -> Result<()> {
    let space = trial.lab().space(HOME.name)?;
    // Where nothing changes, time shows nothing.
    let stays = !trial.column().is_ours() && !wanted;
    let patience = if stays { Duration::from_secs(5) } else { PATIENCE };
    eventually(patience, || {
        for address in FREE {
            let reached =
                space.http(SocketAddr::new(address.parse()?, 80), "/")?.answer().is_some();
            ensure!(reached == wanted, "{address}: reached {reached}, wanted {wanted}");
        }
        Ok(())
    })
}

fn add_range(trial: &Trial<'_>) -> Result<()> {
    trial.lab().api()?.run(|client| async move {
        let range: ServiceCIDR = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": RANGE}, "spec": {"cidrs": RANGES},
        }))?;
        match Api::all(client).create(&PostParams::default(), &range).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    })
}

/// Its controller lets it go some time after its last address.
fn remove_range(trial: &Trial<'_>) -> Result<()> {
    let api = trial.lab().api()?;
    api.run(|client| async move {
        Api::<ServiceCIDR>::all(client).delete(RANGE, &DeleteParams::default()).await?;
        Ok(())
    })?;
    eventually(PATIENCE, || {
        let found = api.run(|client| async move {
            Ok(Api::<ServiceCIDR>::all(client).get_opt(RANGE).await?.is_some())
        })?;
        ensure!(!found, "the ServiceCIDR is still there");
        Ok(())
    })
}

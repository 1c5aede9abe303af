//! Section 1.6: when a backend does not see the client's address.

use super::super::{
    KUBE_PROXY, SOCKETS,
    case::{Case, Setup, case, masked, mirrored, reach, silence},
    place::{
        AWAY_NODE_PORT, AWAY_POD, CLUSTER_IP, CONNECTED_UDP, EXTERNAL_IP, FAR, HOST_FAR, HOST_NEAR,
        ITSELF, NEAR, NODE, NODE_PORT, OUTSIDE_CLIENT, POD, SCTP, TCP, UDP, VIP,
    },
};
use anyhow::ensure;
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    [sources(), special()].into_iter().flatten().collect()
}

/// Why kube-proxy does otherwise without clusterCIDR.
const UNKNOWN: &str = "without clusterCIDR kube-proxy knows no pods, and hides and favours none; \
                       ours then takes the nodes' podCIDRs";
/// Why a pod is not masqueraded to itself.
const ITSELF_DIRECTLY: &str = "a pod that gets itself at the socket talks to itself directly";

/// The rows of the reference's list.
fn sources() -> Vec<Case> {
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    vec![
        case(
            "1.6",
            "masquerade-all",
            "Row 1, masqueradeAll: everything to a ClusterIP is masqueraded",
        )
        .under(Setup::MasqueradeAll)
        .service(json!({}))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, AWAY_POD, NODE], CLUSTER_IP, masked(&[NEAR, FAR]))
        .expect(&[OUTSIDE_CLIENT], CLUSTER_IP, masked(&[NEAR, FAR])),
        case(
            "1.6",
            "source-not-local",
            "Row 2: a ClusterIP's clients are masqueraded unless pods of here",
        )
        .service(json!({}))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR]))
        .expect(&[NODE], CLUSTER_IP, masked(&[NEAR, FAR]))
        .expect(&[OUTSIDE_CLIENT], CLUSTER_IP, masked(&[NEAR, FAR])),
        case(
            "1.6",
            "no-local-detector",
            "Row 3: without clusterCIDR nobody is masqueraded at a ClusterIP",
        )
        .under(Setup::Range)
        .service(local.clone())
        .endpoints(&[NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT], CLUSTER_IP, masked(&[NEAR]))
        .but(KUBE_PROXY, reach(&[NEAR]), UNKNOWN)
        .endpoints(&[FAR])
        .expect(&[POD], NODE_PORT, reach(&[FAR]))
        .but(KUBE_PROXY, silence(), UNKNOWN),
        detected("local-by-node-ranges", "detectLocalMode NodeCIDR: pods of the node's own ranges")
            .under(Setup::NodeRanges),
        detected("local-by-interface", "detectLocalMode InterfaceNamePrefix: what comes from pods")
            .under(Setup::Interfaces),
        case(
            "1.6",
            "external-cluster-source",
            "Row 4: external frontends with policy Cluster: always",
        )
        .service(json!({"type": "LoadBalancer", "externalIPs": true}))
        .endpoints(&[NEAR])
        .expect(&[OUTSIDE_CLIENT, POD, NODE], VIP, masked(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT, POD, NODE], EXTERNAL_IP, masked(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT, POD], NODE_PORT, masked(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT, POD, NODE], AWAY_NODE_PORT, masked(&[NEAR])),
        case(
            "1.6",
            "external-local-source",
            "Row 5: with policy Local only what comes from the node",
        )
        .service(local)
        .endpoints(&[NEAR])
        .expect(&[OUTSIDE_CLIENT, POD], NODE_PORT, reach(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT, POD], VIP, reach(&[NEAR]))
        .expect(&[NODE], VIP, masked(&[NEAR])),
        case("1.6", "hairpin", "Row 6: a pod that gets itself sees the node")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[ITSELF])
            .expect(&[POD], CLUSTER_IP, masked(&[ITSELF]))
            .but_for(POD, &[TCP, UDP], SOCKETS, reach(&[ITSELF]), ITSELF_DIRECTLY)
            .expect(&[POD], NODE_PORT, masked(&[ITSELF])),
        case("1.6", "hairpin-local", "Row 6 with policy Local, which keeps sources otherwise")
            .service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))
            .endpoints(&[ITSELF])
            .expect(&[POD], NODE_PORT, masked(&[ITSELF]))
            .but_for(POD, &[TCP, UDP], SOCKETS, reach(&[ITSELF]), ITSELF_DIRECTLY)
            .expect(&[POD], VIP, masked(&[ITSELF]))
            .but_for(POD, &[TCP, UDP], SOCKETS, reach(&[ITSELF]), ITSELF_DIRECTLY),
    ]
}

/// Who is a pod of the node, where other pods are not.
fn detected(name: &'static str, title: &'static str) -> Case {
    case("1.6", name, title)
        .service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, AWAY_POD], CLUSTER_IP, reach(&[NEAR, FAR]))
        .expect(&[NODE, OUTSIDE_CLIENT], CLUSTER_IP, masked(&[NEAR, FAR]))
        .expect(&[POD], NODE_PORT, reach(&[NEAR, FAR]))
        .expect(&[POD], AWAY_NODE_PORT, reach(&[FAR]))
}

/// Backends that are the node itself, and ports used twice.
fn special() -> Vec<Case> {
    const ITS_OWN: &str = "beside socket hooks a node's packet to itself comes back in from the address that was \
                           dialled: the kernel takes none from outside with an address of its own";
    vec![
        case("1.6", "host-network-backend", "A backend in the network of the node")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[HOST_NEAR])
            .expect(&[POD, OUTSIDE_CLIENT], NODE_PORT, reach(&[HOST_NEAR]))
            .expect(&[POD], CLUSTER_IP, reach(&[HOST_NEAR]))
            .expect(&[NODE], CLUSTER_IP, reach(&[HOST_NEAR]))
            .but_for(NODE, &[CONNECTED_UDP, SCTP], SOCKETS, mirrored(&[HOST_NEAR]), ITS_OWN),
        case("1.6", "host-network-backend-there", "A backend in the network of another node")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[HOST_FAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[HOST_FAR]))
            .expect(&[POD], CLUSTER_IP, reach(&[HOST_FAR]))
            .expect(&[NODE], CLUSTER_IP, masked(&[HOST_FAR])),
        case(
            "1.6",
            "one-source-port-twice",
            "One source port through two addresses to one backend",
        )
        .service(json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": true,
        }))
        .endpoints(&[NEAR])
        .check("both connections work, and at the same time", |trial| {
            trial.everywhere(&[TCP, UDP], |family, way| {
                let port = 17_000 + u16::from(family == crate::topology::Family::V6);
                let open = |target| trial.open_from(OUTSIDE_CLIENT, way, target, family, port);
                let first = open(VIP)?;
                ensure!(first.ask(way.who())?.answer().is_some(), "the first is not served");
                // An unconnected UDP socket has its port for itself.
                let keep = (way == TCP).then_some(first);
                let second = open(EXTERNAL_IP)?;
                ensure!(second.ask(way.who())?.answer().is_some(), "the second is not served");
                if let Some(first) = keep {
                    ensure!(first.ask("/hostname")?.answer().is_some(), "the first has ended");
                }
                Ok(())
            })
        }),
    ]
}

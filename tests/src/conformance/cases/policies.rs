//! Section 1.4: traffic policies, and what happens when nothing is usable.

use super::super::{
    IPTABLES, KUBE_PROXY, NO_SCTP_HOOK, SOCKETS,
    case::{Case, case, masked, otherwise, reach, refused, silence},
    place::{
        AWAY_EXTERNAL_IP, AWAY_NODE, AWAY_NODE_PORT, AWAY_POD, AWAY_VIP, CLUSTER_IP, EXTERNAL_IP,
        FAR, NEAR, NODE, NODE_PORT, OUTSIDE_CLIENT, POD, SCTP, THIRD, VIP, WAYS,
    },
};
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    [internal(), external(), changes(), nothing()].into_iter().flatten().collect()
}

fn internal() -> Vec<Case> {
    let local = json!({"internalTrafficPolicy": "Local"});
    vec![
        case(
            "1.4",
            "internal-local",
            "Internal policy Local: the endpoints of the client's node only",
        )
        .service(local.clone())
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
        .expect(&[AWAY_POD, AWAY_NODE], CLUSTER_IP, reach(&[FAR])),
        case(
            "1.4",
            "internal-local-none-here",
            "Internal policy Local, endpoints elsewhere only: drop",
        )
        .service(local.clone())
        .endpoints(&[FAR])
        .expect(&[POD, NODE], CLUSTER_IP, silence())
        .expect(&[AWAY_POD], CLUSTER_IP, reach(&[FAR]))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.4", "internal-local-none", "Internal policy Local, no endpoint anywhere: reject")
            .service(local.clone())
            .endpoints(&[])
            .expect(&[POD, NODE], CLUSTER_IP, refused()),
        case("1.4", "internal-local-draining", "Internal policy Local falls back by itself")
            .service(local.clone())
            .endpoints(&[NEAR.draining(), FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[AWAY_POD], CLUSTER_IP, reach(&[FAR]))
            .endpoints(&[NEAR.ending(), FAR])
            .expect(&[POD, NODE], CLUSTER_IP, silence()),
        case("1.4", "internal-changes", "The internal policy changed live")
            .service(local)
            .endpoints(&[NEAR, FAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .patch(json!({"spec": {"internalTrafficPolicy": "Cluster"}}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .patch(json!({"spec": {"internalTrafficPolicy": "Local"}}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case(
            "1.4",
            "internal-local-is-internal",
            "Internal policy Local binds no external frontend",
        )
        .service(json!({"type": "LoadBalancer", "internalTrafficPolicy": "Local"}))
        .endpoints(&[NEAR, FAR])
        .expect(&[OUTSIDE_CLIENT, POD], NODE_PORT, masked(&[NEAR, FAR]))
        .expect(&[OUTSIDE_CLIENT, POD], VIP, masked(&[NEAR, FAR])),
    ]
}

fn external() -> Vec<Case> {
    let local = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": true,
    });
    vec![
        case(
            "1.4",
            "external-cluster",
            "External policy Cluster: all endpoints, always masqueraded",
        )
        .service(json!({"type": "LoadBalancer", "externalIPs": true}))
        .endpoints(&[NEAR, FAR])
        .expect(&[OUTSIDE_CLIENT, POD, NODE], NODE_PORT, masked(&[NEAR, FAR]))
        .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
        .expect(&[OUTSIDE_CLIENT, POD, NODE], VIP, masked(&[NEAR, FAR]))
        .expect(&[OUTSIDE_CLIENT, POD, NODE], EXTERNAL_IP, masked(&[NEAR, FAR])),
        case("1.4", "external-local", "External policy Local: endpoints of the node, source kept")
            .service(local.clone())
            .endpoints(&[NEAR, FAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR]))
            .expect(&[OUTSIDE_CLIENT], AWAY_NODE_PORT, reach(&[FAR]))
            .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR]))
            .expect(&[OUTSIDE_CLIENT], AWAY_VIP, reach(&[FAR]))
            .expect(&[OUTSIDE_CLIENT], EXTERNAL_IP, reach(&[NEAR]))
            .expect(&[OUTSIDE_CLIENT], AWAY_EXTERNAL_IP, reach(&[FAR])),
        case(
            "1.4",
            "external-local-from-pod",
            "External policy Local, local pod: all endpoints, as itself",
        )
        .service(local.clone())
        .endpoints(&[NEAR, FAR])
        .expect(&[POD], NODE_PORT, reach(&[NEAR, FAR]))
        .expect(&[POD], VIP, reach(&[NEAR, FAR]))
        .expect(&[POD], EXTERNAL_IP, reach(&[NEAR, FAR]))
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR])),
        case(
            "1.4",
            "external-local-from-other-pod",
            "External policy Local, NodePort of another node",
        )
        .service(local.clone())
        .endpoints(&[NEAR, FAR])
        .expect(&[POD], AWAY_NODE_PORT, reach(&[FAR]))
        .but(KUBE_PROXY, otherwise(), OTHER_NODES_POD)
        .expect(&[NODE], AWAY_NODE_PORT, reach(&[FAR])),
        case(
            "1.4",
            "external-local-from-node",
            "External policy Local, the node itself: all endpoints",
        )
        .service(local.clone())
        .endpoints(&[NEAR, FAR])
        .expect(&[NODE], NODE_PORT, masked(&[NEAR, FAR]))
        .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
        .expect(&[NODE], VIP, masked(&[NEAR, FAR]))
        .expect(&[NODE], EXTERNAL_IP, masked(&[NEAR, FAR])),
        case(
            "1.4",
            "external-local-none-here",
            "External policy Local, endpoints elsewhere only: drop",
        )
        .service(local.clone())
        .endpoints(&[FAR])
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, silence())
        .expect(&[OUTSIDE_CLIENT], VIP, silence())
        .expect(&[OUTSIDE_CLIENT], EXTERNAL_IP, silence())
        .expect(&[OUTSIDE_CLIENT], AWAY_NODE_PORT, reach(&[FAR]))
        .expect(&[POD], NODE_PORT, reach(&[FAR]))
        .expect(&[NODE], NODE_PORT, masked(&[FAR]))
        .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
        .expect(&[POD], VIP, reach(&[FAR]))
        .expect(&[NODE], VIP, masked(&[FAR])),
        case("1.4", "external-local-draining", "External policy Local falls back by itself")
            .service(local.clone())
            .endpoints(&[NEAR.draining(), FAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR]))
            .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR]))
            .expect(&[POD], CLUSTER_IP, reach(&[FAR]))
            .expect(&[POD], NODE_PORT, reach(&[FAR]))
            .endpoints(&[NEAR.ending(), FAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, silence()),
    ]
}

/// Changes, and both policies at once.
fn changes() -> Vec<Case> {
    vec![
        case("1.4", "external-changes", "The external policy changed live")
            .service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))
            .endpoints(&[NEAR, FAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR]))
            .patch(json!({"spec": {"externalTrafficPolicy": "Cluster"}}))
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR, FAR]))
            .expect(&[OUTSIDE_CLIENT], VIP, masked(&[NEAR, FAR]))
            .patch(json!({"spec": {"externalTrafficPolicy": "Local"}}))
            .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR])),
        case("1.4", "both-local", "Both policies Local")
            .service(json!({
                "type": "LoadBalancer", "internalTrafficPolicy": "Local",
                "externalTrafficPolicy": "Local",
            }))
            .endpoints(&[FAR, THIRD])
            .expect(&[POD], CLUSTER_IP, silence())
            .expect(&[POD], VIP, reach(&[FAR, THIRD]))
            .expect(&[OUTSIDE_CLIENT], VIP, silence())
            .expect(&[AWAY_POD], CLUSTER_IP, reach(&[FAR])),
    ]
}

/// Why kube-proxy fails a pod that asks another node.
const OTHER_NODES_POD: &str = "to kube-proxy with clusterCIDR, pods of all nodes are local: it sends \
                               some to endpoints of other nodes, whose answers miss it on their way";

/// Why iptables mode is silent to its own node.
const NOT_ITS_OWN: &str = "iptables mode refuses at these addresses only what comes to the node, not \
                           what the node sends";

fn nothing() -> Vec<Case> {
    vec![
        case("1.4", "no-endpoints", "No usable endpoint: every frontend rejects")
            .service(json!({"type": "LoadBalancer", "externalIPs": true}))
            .endpoints(&[])
            .expect(&[POD, NODE], CLUSTER_IP, refused())
            .expect(&[POD, NODE, OUTSIDE_CLIENT], NODE_PORT, refused())
            .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
            .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, refused())
            .but_for(NODE, WAYS, IPTABLES, silence(), NOT_ITS_OWN)
            .expect(&[POD, NODE, OUTSIDE_CLIENT], EXTERNAL_IP, refused())
            .but_for(NODE, WAYS, IPTABLES, silence(), NOT_ITS_OWN)
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR])),
        case(
            "1.4",
            "no-endpoints-local",
            "No usable endpoint anywhere rejects with policy Local too",
        )
        .service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))
        .endpoints(&[NEAR.unready()])
        .expect(&[POD, NODE, OUTSIDE_CLIENT], NODE_PORT, refused())
        .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
        .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, refused())
        .but_for(NODE, WAYS, IPTABLES, silence(), NOT_ITS_OWN),
        case("1.4", "no-slices", "A Service without any slice rejects")
            .service(json!({"type": "NodePort"}))
            .expect(&[POD, NODE], CLUSTER_IP, refused())
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, refused())
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR])),
    ]
}

//! Section 1.3: which endpoints are chosen from.

use super::super::{
    case::{Case, case, masked, reach, refused},
    place::{
        AWAY, AWAY_POD, CLUSTER_IP, CONTROL_NODE, ELSEWHERE, ELSEWHERE_POD, FAR, FAR_2, HOME, NEAR,
        NEAR_2, NODE, NODE_PORT, OUTSIDE_CLIENT, POD, TCP, THIRD,
    },
    world::ZONE,
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

pub(super) fn cases() -> Vec<Case> {
    [conditions(), topology()].into_iter().flatten().collect()
}

/// Readiness, and what is used in its absence.
fn conditions() -> Vec<Case> {
    vec![
        case(
            "1.3",
            "unready",
            "Not ready and not serving: never used, even when nothing else is left",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(&[NEAR.unready(), FAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[FAR]))
        .endpoints(&[NEAR.unready(), FAR.unready()])
        .expect(&[POD, NODE], CLUSTER_IP, refused())
        .expect(&[POD, OUTSIDE_CLIENT], NODE_PORT, refused())
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.3", "draining-is-last-resort", "Serving and terminating: only when none is ready")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR.draining(), FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[FAR]))
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[FAR]))
            .endpoints(&[NEAR.draining(), FAR.draining(), THIRD.ending()])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR, FAR]))
            .endpoints(&[NEAR.ending(), FAR.ending()])
            .expect(&[POD], CLUSTER_IP, refused()),
        case("1.3", "uniform", "Every endpoint is as likely as the others")
            .service(json!({}))
            .endpoints(&[NEAR, FAR, THIRD, NEAR_2])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR, THIRD, NEAR_2]))
            .check("400 requests: 100 to each, but for five standard deviations", |trial| {
                trial.everywhere(&[TCP], |family, way| {
                    let counts = trial.counts(POD, way, CLUSTER_IP, family, 400)?;
                    let even = counts.len() == 4 && counts.values().all(|n| (57..=143).contains(n));
                    ensure!(even, "{counts:?}");
                    Ok(())
                })
            }),
    ]
}

/// Hints for zones and nodes.
fn topology() -> Vec<Case> {
    let near = NEAR.for_zone("a");
    let far = FAR.for_zone("b");
    vec![
        case("1.3", "zone-hints", "All endpoints have zone hints: those for the client's zone")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[near, far])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[AWAY_POD, ELSEWHERE_POD], CLUSTER_IP, reach(&[FAR]))
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR])),
        case("1.3", "zone-hints-incomplete", "One endpoint without hint: hints do not count")
            .service(json!({}))
            .endpoints(&[near, far, NEAR_2])
            .expect(&[POD, AWAY_POD], CLUSTER_IP, reach(&[NEAR, FAR, NEAR_2])),
        case("1.3", "zone-hints-of-unready", "Hints are only asked of endpoints that are ready")
            .service(json!({}))
            .endpoints(&[near, far, NEAR_2.unready()])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR])),
        case("1.3", "zone-without-endpoints", "No hint names the client's zone: all endpoints")
            .service(json!({}))
            .endpoints(&[NEAR.for_zone("c"), FAR.for_zone("b")])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.3", "node-without-zone", "A node without zone label takes no notice of zones")
            .service(json!({}))
            .endpoints(&[near, far])
            .expect(&[CONTROL_NODE], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.3", "zone-hints-none-ready", "Terminating endpoints as last resort: whatever their hints")
            .service(json!({}))
            .endpoints(&[near.draining(), far.draining()])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.3", "node-hints", "Node hints come before zone hints")
            .service(json!({}))
            .endpoints(&[
                near.for_node(HOME),
                NEAR_2.for_zone("a").for_node(ELSEWHERE),
                far.for_node(AWAY),
            ])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[AWAY_POD], CLUSTER_IP, reach(&[FAR]))
            .expect(&[ELSEWHERE_POD], CLUSTER_IP, reach(&[NEAR_2])),
        case("1.3", "node-hints-elsewhere", "No hint names the client's node: zones count")
            .service(json!({}))
            .endpoints(&[near.for_node(AWAY), far.for_node(AWAY)])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[AWAY_POD], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.3", "node-hints-incomplete", "One endpoint without node hint: zones count")
            .service(json!({}))
            .endpoints(&[near.for_node(AWAY), NEAR_2.for_zone("a"), far.for_node(AWAY)])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, NEAR_2])),
        case("1.3", "hints-and-policy-local", "Hints never apply to the policy Local")
            .service(json!({
                "type": "NodePort", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            }))
            .endpoints(&[NEAR.for_zone("b"), far, FAR_2.for_zone("a")])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR])),
        case("1.3", "traffic-distribution", "`trafficDistribution` is not read, only hints are")
            .service(json!({"trafficDistribution": "PreferSameNode"}))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.11", "zone-changes", "A node's zone label is followed while it changes")
            .alone()
            .service(json!({}))
            .endpoints(&[near, far])
            .expect(&[ELSEWHERE_POD], CLUSTER_IP, reach(&[FAR]))
            .then("the third node moves to zone a", |trial| zone(trial, &json!("a")))
            .expect(&[ELSEWHERE_POD], CLUSTER_IP, reach(&[NEAR]))
            .then("its label goes", |trial| zone(trial, &json!(null)))
            .expect(&[ELSEWHERE_POD], CLUSTER_IP, reach(&[NEAR, FAR]))
            .then("it is back in zone b", |trial| zone(trial, &json!("b")))
            .expect(&[ELSEWHERE_POD], CLUSTER_IP, reach(&[FAR])),
    ]
}

fn zone(trial: &super::super::trial::Trial<'_>, zone: &Value) -> Result<()> {
    let labels = json!({"metadata": {"labels": {ZONE: zone}}});
    trial.lab().patch_node(ELSEWHERE.name, &labels)
}

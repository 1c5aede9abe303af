//! Section 1.11: restarts, and Nodes that change.

use super::super::{
    case::{Case, case, masked, reach, refused},
    place::{
        CLUSTER_IP, ELSEWHERE, ELSEWHERE_POD, FAR, HOME, NEAR, NODE, NODE_PORT, OUTSIDE_CLIENT,
        POD, THIRD,
    },
    trial::Trial,
};
use anyhow::Result;
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "1.11",
            "changes-while-stopped",
            "What changed while the proxy was stopped is known after",
        )
        .alone()
        .service(json!({}))
        .service_named("gone", json!({}))
        .endpoints(&[NEAR])
        .endpoints_of("gone", &[NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .then("the proxy is killed, endpoints change, a Service goes, the proxy is back", |trial| {
            let node = trial.lab().node(HOME.name)?;
            trial.lab().take_proxy(node)?.kill()?;
            trial.set_endpoints("", &[FAR])?;
            trial.set_endpoints("gone", &[])?;
            trial.lab().start_proxy(node, trial.column().kind())?;
            trial.lab().wait_proxy(node)
        })
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[FAR]))
        .expect(&[POD, NODE], CLUSTER_IP.of("gone"), refused()),
        case("1.11", "node-deleted", "A Node that is deleted and comes back")
            .alone()
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR, THIRD])
            .expect(&[POD, ELSEWHERE_POD], CLUSTER_IP, reach(&[NEAR, THIRD]))
            .then("the third Node is deleted", |trial| trial.delete_node(ELSEWHERE))
            .check("its proxy runs on", |trial| trial.runs_on(ELSEWHERE))
            .then("the Node is back", bring_back)
            .expect(&[POD, ELSEWHERE_POD], CLUSTER_IP, reach(&[NEAR, THIRD]))
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR, THIRD])),
    ]
}

/// A proxy that has ended is started, as a kubelet would.
fn bring_back(trial: &Trial<'_>) -> Result<()> {
    trial.settle_nodes()
}

//! Section 1.5: session affinity.

use super::super::{
    case::{Case, case, reach},
    place::{
        CLUSTER_IP, Client, EXTERNAL_IP, Endpoint, FAR, FAR_2, HOME, NEAR, NEAR_2, NODE, NODE_PORT,
        OUTSIDE_CLIENT, POD, POD_2, SCTP, TCP, THIRD, Target, UDP, VIP, WAYS, Way,
    },
    trial::Trial,
};
use crate::topology::Family;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Mutex, thread, time::Duration};

/// Four endpoints: by chance two clients agree in one of four cases.
const FOUR: &[Endpoint] = &[NEAR, NEAR_2, FAR, FAR_2];
/// Ways that do not share an affinity: each protocol's port is a port of its own.
const PROTOCOLS: &[Way] = &[TCP, UDP, SCTP];
/// Timeout of the cases about it, in seconds: half of it is what a busy machine may lose.
const SHORT: u64 = 8;

pub(super) fn cases() -> Vec<Case> {
    let sticky = json!({"sessionAffinity": "ClientIP"});
    vec![
        case("1.5", "affinity", "One client address, one endpoint, whichever port it asks from")
            .service(sticky.clone())
            .endpoints(FOUR)
            .check("each client stays with one endpoint", |trial| {
                trial.everywhere(WAYS, |family, way| {
                    for client in [POD, POD_2, NODE] {
                        trial.only(client, way, CLUSTER_IP, family, 10)?;
                    }
                    Ok(())
                })
            })
            .check("two pods of one node are two clients", |trial| {
                let same = agreement(trial, (POD, CLUSTER_IP), (POD_2, CLUSTER_IP))?;
                ensure!(same.contains(&false), "they always get the same endpoint");
                Ok(())
            }),
        case(
            "1.5",
            "affinity-of-all-frontends",
            "ClusterIP, NodePort, LB and external IP share it",
        )
        .service(frontends())
        .endpoints(FOUR)
        .check("a pod gets one endpoint by all of them", |trial| {
            for other in [NODE_PORT, VIP, EXTERNAL_IP] {
                let same = agreement(trial, (POD, CLUSTER_IP), (POD, other))?;
                ensure!(!same.contains(&false), "ClusterIP and {other} lead elsewhere");
            }
            Ok(())
        })
        .check("a client outside gets one endpoint by all of them", |trial| {
            for other in [VIP, EXTERNAL_IP] {
                let same = agreement(trial, (OUTSIDE_CLIENT, NODE_PORT), (OUTSIDE_CLIENT, other))?;
                ensure!(!same.contains(&false), "NodePort and {other} lead elsewhere");
            }
            Ok(())
        }),
        case(
            "1.5",
            "affinity-timeout",
            "It ends when its time has passed without a new connection",
        )
        .service(short(&json!({})))
        .endpoints(FOUR)
        .check("it lasts beyond its time while connections come", |trial| {
            lasts(trial, POD, CLUSTER_IP)
        })
        .check("it is gone after its time without them", |trial| ends(trial, POD, CLUSTER_IP)),
        case("1.5", "affinity-switched", "Affinity switched on and off live")
            .service(json!({"type": "NodePort"}))
            .endpoints(FOUR)
            .expect(&[POD], CLUSTER_IP, reach(FOUR))
            .patch(json!({"spec": sticky.clone()}))
            .check("on: one endpoint", |trial| {
                trial.everywhere(WAYS, |family, way| {
                    trial.only(POD, way, CLUSTER_IP, family, 12)?;
                    trial.only(OUTSIDE_CLIENT, way, NODE_PORT, family, 12).map(drop)
                })
            })
            .patch(json!({"spec": {"sessionAffinity": "None"}}))
            .expect(&[POD], CLUSTER_IP, reach(FOUR)),
        case("1.5", "affinity-to-unready", "A client whose endpoint is not ready gets another")
            .service(sticky.clone())
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .endpoints(&[NEAR.unready(), FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[FAR]))
            .endpoints(&[NEAR.draining(), FAR.draining()])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[FAR])),
        case("1.5", "affinity-and-policy-local", "Affinity chooses among what the policy leaves")
            .service(json!({
                "sessionAffinity": "ClientIP", "type": "LoadBalancer",
                "externalTrafficPolicy": "Local",
            }))
            .endpoints(&[NEAR, FAR, THIRD])
            .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR]))
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR])),
        case("1.5", "affinity-survives-restart", "A restart of the proxy forgets no client")
            .alone()
            .service(sticky)
            .endpoints(FOUR)
            .check("the same endpoints before and after", |trial| {
                let before = choices(trial, POD, CLUSTER_IP)?;
                trial.restart_proxy(HOME)?;
                let after = choices(trial, POD, CLUSTER_IP)?;
                ensure!(before == after, "{before:?}, then {after:?}");
                Ok(())
            }),
    ]
}

fn frontends() -> Value {
    json!({"sessionAffinity": "ClientIP", "type": "LoadBalancer", "externalIPs": true})
}

/// The endpoint that a client gets by each protocol and family.
fn choices(trial: &Trial<'_>, client: Client, target: Target) -> Result<Vec<String>> {
    let mut choices = Vec::new();
    for family in Family::ALL {
        for way in PROTOCOLS {
            choices.push(trial.only(client, *way, target, family, 4)?);
        }
    }
    Ok(choices)
}

/// Whether two clients get the same endpoint, for each protocol and family.
fn agreement(
    trial: &Trial<'_>,
    one: (Client, Target),
    other: (Client, Target),
) -> Result<BTreeSet<bool>> {
    let (one, other) = (choices(trial, one.0, one.1)?, choices(trial, other.0, other.1)?);
    Ok(one.iter().zip(&other).map(|(one, other)| one == other).collect())
}

/// Affinity that ends soon.
pub(super) fn short(more: &Value) -> Value {
    let mut spec = json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": SHORT}},
    });
    crate::manifest::merge(&mut spec, more);
    spec
}

pub(super) fn lasts(trial: &Trial<'_>, client: Client, target: Target) -> Result<()> {
    trial.everywhere(PROTOCOLS, |family, way| {
        let first = trial.only(client, way, target, family, 3)?;
        for _ in 0..3 {
            thread::sleep(Duration::from_secs(SHORT) / 2);
            let next = trial.only(client, way, target, family, 1)?;
            ensure!(first == next, "{first}, then {next}");
        }
        Ok(())
    })
}

/// The chance to get the same endpoint of three eleven times again is one in 177,000.
pub(super) fn ends(trial: &Trial<'_>, client: Client, target: Target) -> Result<()> {
    let seen = Mutex::new(BTreeSet::new());
    for _ in 0..12 {
        trial.everywhere(&[TCP], |family, way| {
            let name = trial.only(client, way, target, family, 1)?;
            crate::space::lock(&seen).insert((family, name));
            Ok(())
        })?;
        let seen = crate::space::lock(&seen);
        if Family::ALL.iter().all(|family| seen.iter().filter(|(f, _)| f == family).count() > 1) {
            return Ok(());
        }
        drop(seen);
        // netfilter counts whole seconds in one of its modes.
        thread::sleep(Duration::from_secs(SHORT) + Duration::from_millis(1200));
    }
    anyhow::bail!("it does not end")
}

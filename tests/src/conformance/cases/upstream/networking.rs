//! `networking.go`, `conntrack.go` and others: granular checks, and pods that cycle.

use super::super::super::{
    NO_SCTP_HOOK, SOCKETS,
    case::{Case, case, masked, reach, refused, silence},
    place::{
        AWAY, AWAY_NODE_PORT, AWAY_POD, CLUSTER_IP, CONNECTED_UDP, Client, Endpoint, FAR, HOME,
        NEAR, NODE, NODE_PORT, OUTSIDE_CLIENT, POD, SCTP, TCP, THIRD, Target, UDP, VIP,
    },
    probe::who,
    trial::Trial,
};
use super::super::{flows, health};
use crate::{
    proto::Ask,
    space::request,
    suite::eventually,
    topology::{Family, NodeSpec},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::time::Duration;

/// How long a client whose backend has gone may have to ask again.
const MOVE: Duration = Duration::from_mins(1);

pub(super) fn cases() -> Vec<Case> {
    [granular(), cycles()].into_iter().flatten().collect()
}

fn granular() -> Vec<Case> {
    let all = &[NEAR, FAR, THIRD];
    vec![
        case(
            "2",
            "up-pod-service",
            "Granular Checks: should function for pod-Service: http, udp, sctp",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(all)
        .expect(&[POD], CLUSTER_IP, reach(all))
        .expect(&[POD], NODE_PORT, masked(all))
        .expect(&[POD], AWAY_NODE_PORT, masked(all)),
        case(
            "2",
            "up-node-service",
            "Granular Checks: should function for node-Service: http, udp",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(all)
        .expect(&[NODE], CLUSTER_IP, reach(all))
        .expect(&[NODE], NODE_PORT, masked(all))
        .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
        .expect(&[NODE], AWAY_NODE_PORT, masked(all)),
        case(
            "2",
            "up-endpoint-service",
            "Granular Checks: should function for endpoint-Service: http, udp",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(all)
        .expect(&[ENDPOINT], NODE_PORT, masked(&[NEAR, FAR, THIRD]))
        .check("an endpoint reaches all endpoints, itself too", |trial| {
            trial.everywhere(&[TCP, UDP, CONNECTED_UDP, SCTP], |family, way| {
                let counts = trial.counts(ENDPOINT, way, CLUSTER_IP, family, 60)?;
                ensure!(counts.len() == 3, "{counts:?}");
                Ok(())
            })
        }),
        case("2", "up-update-node-port", "should update nodePort: http, udp [Slow]")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR])
            .expect(&[OUTSIDE_CLIENT, POD], NODE_PORT, masked(&[NEAR]))
            .delete()
            .expect(&[OUTSIDE_CLIENT, POD], NODE_PORT, refused())
            .over(&[TCP, CONNECTED_UDP]),
        case(
            "2",
            "up-client-affinity",
            "should function for client IP based session affinity: http, udp",
        )
        .service(json!({"type": "NodePort", "sessionAffinity": "ClientIP"}))
        .endpoints(all)
        .check("a client gets one endpoint", |trial| {
            trial.everywhere(&[TCP, UDP, CONNECTED_UDP], |family, way| {
                trial.only(POD, way, CLUSTER_IP, family, 10)?;
                trial.only(OUTSIDE_CLIENT, way, NODE_PORT, family, 10).map(drop)
            })
        }),
        case("2", "up-large-requests", "should be able to handle large requests: http, udp")
            .service(json!({"type": "LoadBalancer", "externalIPs": true}))
            .endpoints(all)
            .expect(&[POD], CLUSTER_IP, reach(all))
            .check("they arrive and come back whole", flows::echoes),
        case("2", "up-urls", "should check kube-proxy urls")
            .check("/healthz and /proxyMode answer", health::urls),
        case("2", "up-no-snat", "Should be able to send traffic between Pods without SNAT")
            .check("pods see each other's own addresses", no_snat),
    ]
}

/// A backend as a client.
const ENDPOINT: Client = Client { label: "an endpoint", space: "near", kind: POD.kind, node: HOME };

/// Pod to pod, without a Service.
fn no_snat(trial: &Trial<'_>) -> Result<()> {
    trial.everywhere(&[TCP, UDP, CONNECTED_UDP, SCTP], |family, way| {
        for client in [POD, AWAY_POD] {
            let own = trial.lab().pod(client.space)?.address.get(family);
            for server in [NEAR, FAR, THIRD] {
                let to = (trial.lab().pod(server.pod)?.address.get(family), server.port).into();
                let ask = Ask { connected: way.connected, ..request(way.proto, to, way.who()) };
                eventually(MOVE, || {
                    let verdict = trial.lab().space(client.space)?.ask(&ask)?;
                    let (name, source) =
                        verdict.answer().and_then(who).with_context(|| verdict.to_string())?;
                    ensure!((name, source) == (server.pod, own), "{name} sees {source}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    })
}

fn cycles() -> Vec<Case> {
    const FIRST: Endpoint = Endpoint::of("up-udp-cycle-1", AWAY);
    let service = json!({"selector": true, "type": "NodePort"});
    vec![
        case("2", "up-udp-cycle", "should be able to preserve UDP traffic when server pod cycles for a ClusterIP service")
            .service(service.clone())
            .pods(&[("1", AWAY)])
            .expect(&[POD], CLUSTER_IP, reach(&[FIRST]))
            .check("the client moves to the new pod", |trial| cycle(trial, (POD, 12_345), CLUSTER_IP, AWAY)),
        case(
            "2",
            "up-udp-cycle-node-port",
            "should be able to preserve UDP traffic when server pod cycles for a NodePort service",
        )
        .service(service.clone())
        .pods(&[("1", AWAY)])
        .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-udp-cycle-node-port-1", AWAY)]))
        .check("the client moves to the new pod", |trial| cycle(trial, (OUTSIDE_CLIENT, 12_345), NODE_PORT, AWAY)),
        case(
            "2",
            "up-udp-cycle-host",
            "should be able to preserve UDP traffic when server pod cycles for a ClusterIP service and \
             client is hostNetwork",
        )
        .service(service.clone())
        .pods(&[("1", AWAY)])
        .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-udp-cycle-host-1", AWAY)]))
        .check("the client moves to the new pod", |trial| cycle(trial, (NODE, 12_345), CLUSTER_IP, AWAY)),
        case(
            "2",
            "up-udp-cycle-local",
            "should be able to preserve UDP traffic when server pod cycles for a ClusterIP service \
             with a local backend recreated while a remote endpoint exists",
        )
        .service(json!({"selector": true, "internalTrafficPolicy": "Local"}))
        .pods(&[("1", HOME), ("far", AWAY)])
        .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-udp-cycle-local-1", HOME)]))
        .check("the client moves to the new pod", |trial| cycle(trial, (POD, 12_355), CLUSTER_IP, HOME)),
        case(
            "2",
            "up-udp-cycle-balanced",
            "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service",
        )
        .service(json!({"selector": true, "type": "LoadBalancer"}))
        .pods(&[("1", AWAY)])
        .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-udp-cycle-balanced-1", AWAY)]))
        .check("the client moves to the new pod", |trial| cycle(trial, (OUTSIDE_CLIENT, 12_355), VIP, AWAY)),
        case(
            "2",
            "up-udp-initially-unready",
            "should be able to preserve UDP traffic when initial unready endpoints get ready",
        )
        .service(service)
        .pods(&[("1", AWAY)])
        .then("the pod is not ready", |trial| trial.set_ready("1", false))
        .expect(&[POD], CLUSTER_IP, refused())
        .check("a client that has asked before is answered after", |trial| {
            let mut sockets = Vec::new();
            for family in Family::ALL {
                for way in [UDP, CONNECTED_UDP] {
                    let socket = trial.open(POD, way, CLUSTER_IP, family)?;
                    socket.ask_within("hostname", Duration::from_millis(50))?;
                    sockets.push(socket);
                }
            }
            trial.set_ready("1", true)?;
            for socket in sockets {
                eventually(MOVE, || {
                    let verdict = socket.ask_within("hostname", Duration::from_millis(200))?;
                    verdict.answer().with_context(|| verdict.to_string()).map(drop)
                })?;
            }
            Ok(())
        }),
    ]
}

/// A client keeps asking from fixed ports while its server pod is replaced by another on this node.
/// Cases that run side by side have the same clients, and so ports of their own.
fn cycle(
    trial: &Trial<'_>,
    (client, first): (Client, u16),
    target: Target,
    node: &'static NodeSpec,
) -> Result<()> {
    let mut sockets = Vec::new();
    for (port, family) in (first..).step_by(2).zip(Family::ALL) {
        for (port, way) in (port..).zip([UDP, CONNECTED_UDP]) {
            let socket = trial.open_from(client, way, target, family, port)?;
            let old = trial.name("1");
            eventually(MOVE, || {
                let verdict = socket.ask_within("hostname", Duration::from_millis(200))?;
                ensure!(verdict.answer() == Some(&old), "{verdict}");
                Ok(())
            })?;
            sockets.push((socket, format!("{way} IP{family}")));
        }
    }
    trial.create_pods(&[("2", node)])?;
    trial.delete_pod("1")?;
    let new = trial.name("2");
    for (socket, label) in &sockets {
        eventually(MOVE, || {
            let verdict = socket.ask_within("hostname", Duration::from_millis(200))?;
            ensure!(verdict.answer() == Some(&new), "{label}: {verdict}");
            Ok(())
        })?;
    }
    Ok(())
}

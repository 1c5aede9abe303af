//! `service.go`: types, ports, changes.

use super::super::super::{
    IPTABLES, NO_SCTP_HOOK, SOCKETS,
    case::{Case, case, masked, reach, refused, silence},
    place::{
        AWAY, AWAY_NODE_PORT, AWAY_POD, CLUSTER_IP, CONNECTED_UDP, EXTERNAL_IP, Endpoint, FAR,
        HOME, ITSELF, NEAR, NEAR_2, NODE, NODE_PORT, OUTSIDE_CLIENT, POD, SCTP, TCP, THIRD, UDP,
    },
    trial::Trial,
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

pub(super) fn cases() -> Vec<Case> {
    [pods(), changes(), types(), restarts()].into_iter().flatten().collect()
}

const BASIC: [Endpoint; 2] = [Endpoint::of("up-basic-1", HOME), Endpoint::of("up-basic-2", AWAY)];
const SERVED_BY_1: Endpoint = Endpoint::of("up-unready-1", HOME);

/// Real pods and the real controller.
fn pods() -> Vec<Case> {
    vec![
        case("2", "up-basic", "should serve a basic endpoint from pods")
            .service(json!({"selector": true}))
            .expect(&[POD], CLUSTER_IP, refused())
            .pods(&[("1", HOME)])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&BASIC[..1]))
            .pods(&[("2", AWAY)])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&BASIC))
            .then("the first pod is deleted", |trial| trial.delete_pod("1"))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&BASIC[1..]))
            .then("the second pod is deleted", |trial| trial.delete_pod("2"))
            .expect(&[POD], CLUSTER_IP, refused()),
        case("2", "up-unready", "should create endpoints for unready pods")
            .service(json!({"selector": true, "publishNotReadyAddresses": true}))
            .pods(&[("1", HOME)])
            .then("the pod is not ready", |trial| trial.set_ready("1", false))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[SERVED_BY_1]))
            .patch(json!({"spec": {"publishNotReadyAddresses": false}}))
            .expect(&[POD], CLUSTER_IP, refused())
            .then("the pod is ready", |trial| trial.set_ready("1", true))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[SERVED_BY_1])),
        case(
            "2",
            "up-publish-not-ready",
            "should be able to connect to terminating and unready endpoints if \
             PublishNotReadyAddresses is true",
        )
        .service(json!({
            "selector": true, "publishNotReadyAddresses": true, "type": "NodePort",
        }))
        .pods(&[("1", HOME)])
        .then("the pod is unready and terminates", unready_and_terminating)
        .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-publish-not-ready-1", HOME)]))
        .expect(
            &[OUTSIDE_CLIENT],
            NODE_PORT,
            masked(&[Endpoint::of("up-publish-not-ready-1", HOME)]),
        )
        .expect(
            &[OUTSIDE_CLIENT],
            AWAY_NODE_PORT,
            masked(&[Endpoint::of("up-publish-not-ready-1", HOME)]),
        ),
        case(
            "2",
            "up-no-publish-not-ready",
            "should not be able to connect to terminating and unready endpoints if \
             PublishNotReadyAddresses is false",
        )
        .service(json!({"selector": true, "type": "NodePort"}))
        .pods(&[("1", HOME)])
        .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-no-publish-not-ready-1", HOME)]))
        .then("the pod is unready and terminates", unready_and_terminating)
        .expect(&[POD], CLUSTER_IP, refused())
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, refused())
        .expect(&[OUTSIDE_CLIENT], AWAY_NODE_PORT, refused()),
        case("2", "up-evicted", "should be rejected for evicted pods (no endpoints exist)")
            .service(json!({"selector": true}))
            .pods(&[("1", HOME)])
            .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-evicted-1", HOME)]))
            .then("the pod has failed", |trial| trial.fail_pod("1"))
            .expect(&[POD, NODE], CLUSTER_IP, refused()),
        case(
            "2",
            "up-same-selector",
            "should function for multiple endpoint-Services with same selector",
        )
        .service(json!({"selector": true}))
        .service_named("second", json!({"selector": true}))
        .pods(&[("1", HOME)])
        .expect(&[POD], CLUSTER_IP, reach(&[Endpoint::of("up-same-selector-1", HOME)]))
        .then("the first Service is deleted", |trial| trial.delete(""))
        .expect(&[POD], CLUSTER_IP, silence())
        .expect(
            &[POD],
            CLUSTER_IP.of("second"),
            reach(&[Endpoint::of("up-same-selector-1", HOME)]),
        ),
    ]
}

fn unready_and_terminating(trial: &Trial<'_>) -> Result<()> {
    trial.set_ready("1", false)?;
    trial.lab().terminate_pod(&trial.name("1"))
}

/// Ports and Services that come and go.
fn changes() -> Vec<Case> {
    let one = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": 8080, "protocol": "TCP"});
    let slice = |name: &str| json!({"ports": [{"name": name, "port": 8080, "protocol": "TCP"}]});
    vec![
        case("2", "up-multiport", "should serve multiport endpoints from pods")
            .service(json!({"ports": [one("one", 80), one("two", 81)]}))
            .slices(&[(&[NEAR], slice("one")), (&[FAR], slice("two"))])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .over(&[TCP])
            .expect(&[POD, NODE], CLUSTER_IP.port(81), reach(&[FAR]))
            .over(&[TCP])
            .slices(&[(&[FAR], slice("two"))])
            .expect(&[POD], CLUSTER_IP, refused())
            .over(&[TCP])
            .expect(&[POD], CLUSTER_IP.port(81), reach(&[FAR]))
            .over(&[TCP]),
        case("2", "up-ports", "should be updated after adding or deleting ports")
            .service(json!({"ports": [one("tcp", 80)]}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .over(&[TCP])
            .patch(json!({"spec": {"ports": [one("tcp", 80), {
                "name": "udp", "port": 81, "targetPort": 8080, "protocol": "UDP",
            }]}}))
            .expect(&[POD, NODE], CLUSTER_IP.port(81), reach(&[NEAR]))
            .over(&[UDP, CONNECTED_UDP])
            .patch(json!({"spec": {"ports": [one("tcp", 80)]}}))
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .over(&[TCP])
            .expect(&[POD], CLUSTER_IP.port(81), refused())
            .over(&[CONNECTED_UDP])
            .but(IPTABLES, silence(), "iptables mode has no rule for it: it leaves by the default route"),
        case("2", "up-source", "should preserve source pod IP for traffic thru service cluster IP")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD, AWAY_POD], CLUSTER_IP, reach(&[NEAR])),
        case("2", "up-hairpin", "should allow pods to hairpin back to themselves through services")
            .service(json!({}))
            .endpoints(&[ITSELF])
            .expect(&[POD], CLUSTER_IP, masked(&[ITSELF]))
            .but_for(
                POD,
                &[TCP, UDP],
                SOCKETS,
                reach(&[ITSELF]),
                "a pod that gets itself at the socket talks to itself directly",
            ),
        case("2", "up-and-down", "should be able to up and down services")
            .service(json!({}))
            .service_named("second", json!({}))
            .endpoints(&[NEAR])
            .endpoints_of("second", &[FAR, THIRD])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[POD, NODE], CLUSTER_IP.of("second"), reach(&[FAR, THIRD]))
            .delete()
            .expect(&[POD, NODE], CLUSTER_IP, silence())
            .expect(&[POD, NODE], CLUSTER_IP.of("second"), reach(&[FAR, THIRD]))
            .service_named("third", json!({}))
            .endpoints_of("third", &[NEAR_2])
            .expect(&[POD, NODE], CLUSTER_IP.of("third"), reach(&[NEAR_2])),
        case("2", "up-recreated", "should work after the service has been recreated")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .delete()
            .expect(&[POD], CLUSTER_IP, silence())
            .service(json!({}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("2", "up-same-port", "should serve endpoints on same port and different protocols")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .patch(json!({"spec": {"ports": [one("tcp", 80)]}}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .over(&[TCP])
            .expect(&[POD], CLUSTER_IP, refused())
            .over(&[CONNECTED_UDP])
            .but(IPTABLES, silence(), "iptables mode has no rule for it: it leaves by the default route"),
        case(
            "2",
            "up-same-port-balanced",
            "should serve endpoints on same port and different protocol for internal traffic on Type \
             LoadBalancer",
        )
        .service(json!({"type": "LoadBalancer"}))
        .endpoints(&[NEAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("2", "up-custom-slice", "should support a Service with custom EndpointSlices")
            .service(json!({}))
            .slices(&[(&[NEAR], json!({})), (&[FAR], json!({}))])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR])),
    ]
}

fn types() -> Vec<Case> {
    [node_ports(), external_names()].into_iter().flatten().collect()
}

fn external_names() -> Vec<Case> {
    let external_name = || {
        json!({"spec": {
            "type": "ExternalName", "externalName": "example.com", "clusterIP": null,
            "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
        }})
    };
    let back = |kind: &str| {
        json!({"spec": {
            "type": kind, "externalName": null, "ipFamilyPolicy": "PreferDualStack",
        }})
    };
    let named =
        json!({"type": "ExternalName", "externalName": "example.com", "ipFamilyPolicy": null});
    vec![
        case(
            "2",
            "up-name-to-cluster",
            "should be able to change the type from ExternalName to ClusterIP",
        )
        .service(named.clone())
        .endpoints(&[NEAR])
        .patch(back("ClusterIP"))
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case(
            "2",
            "up-name-to-node-port",
            "should be able to change the type from ExternalName to NodePort",
        )
        .service(named)
        .endpoints(&[NEAR])
        .patch(back("NodePort"))
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR])),
        case(
            "2",
            "up-cluster-to-name",
            "should be able to change the type from ClusterIP to ExternalName",
        )
        .service(json!({}))
        .endpoints(&[NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .patch_and_remember(external_name())
        .expect(&[POD, NODE], CLUSTER_IP, silence()),
        case(
            "2",
            "up-node-port-to-name",
            "should be able to change the type from NodePort to ExternalName",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(&[NEAR])
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
        .patch_and_remember(without_node_ports(external_name()))
        .expect(&[POD], CLUSTER_IP, silence())
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, refused())
        .over(&[TCP, CONNECTED_UDP]),
    ]
}

fn node_ports() -> Vec<Case> {
    vec![
        case("2", "up-node-port", "should be able to create a functioning NodePort service")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .expect(&[POD, NODE, OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR, FAR]))
            .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
            .expect(&[POD, NODE, OUTSIDE_CLIENT], AWAY_NODE_PORT, masked(&[NEAR, FAR])),
        case(
            "2",
            "up-external-ip",
            "should be possible to connect to a service via ExternalIP when the external IP is not \
             assigned to a node",
        )
        .service(json!({"externalIPs": true}))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD], EXTERNAL_IP, masked(&[NEAR, FAR])),
        case(
            "2",
            "up-type-and-protocols",
            "should be able to update service type to NodePort listening on same port number but \
             different protocols",
        )
        .service(json!({"ports": [
            {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        ]}))
        .endpoints(&[NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .over(&[TCP])
        .patch(json!({"spec": {"type": "NodePort", "ports": [
            {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"},
            {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
        ]}}))
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
        .over(&[TCP, UDP])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .over(&[TCP, UDP]),
        case("2", "up-release", "should release NodePorts on delete")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
            .delete()
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, refused())
            .over(&[TCP, CONNECTED_UDP])
            .check("nothing listens on the port", |trial| {
                let port = trial.service("")?.node_port(0)?;
                let node = trial.lab().node(HOME.name)?;
                let listening =
                    node.space.output("ss", &["-ltnuH", &format!("sport = :{port}")])?;
                ensure!(listening.trim().is_empty(), "{listening}");
                Ok(())
            }),
        case(
            "2",
            "up-sctp",
            "should allow creating a basic SCTP service with pod and endpoints [Serial]",
        )
        .service(json!({}))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
        .over(&[SCTP])
        .check("the module sctp is not loaded", |_| {
            let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
            ensure!(!modules.lines().any(|line| line.starts_with("sctp ")), "it is");
            Ok(())
        }),
    ]
}

/// A NodePort cannot be kept by what has none.
fn without_node_ports(mut patch: Value) -> Value {
    patch["spec"]["ports"] = json!([{"name": "tcp", "port": 80, "protocol": "TCP"}]);
    patch
}

fn restarts() -> Vec<Case> {
    vec![
        case("2", "up-proxy-restart", "should work after restarting kube-proxy [Disruptive]")
            .alone()
            .service(json!({}))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .then("the proxy is killed and started", |trial| trial.restart_proxy(HOME))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .service_named("second", json!({}))
            .endpoints_of("second", &[FAR])
            .expect(&[POD, NODE], CLUSTER_IP.of("second"), reach(&[FAR])),
        case("2", "up-apiserver-restart", "should work after restarting apiserver [Disruptive]")
            .alone()
            .service(json!({}))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .then("the API server is killed and started", restart_api_server)
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .service_named("second", json!({}))
            .endpoints_of("second", &[FAR])
            .expect(&[POD, NODE], CLUSTER_IP.of("second"), reach(&[FAR])),
    ]
}

fn restart_api_server(trial: &Trial<'_>) -> Result<()> {
    trial.restart_api_server()
}

//! Section 1.1: which objects are seen.

use super::super::{
    IPTABLES, KUBE_PROXY,
    case::{Case, Setup, case, reach, refused, silence},
    place::{
        CLUSTER_IP, CONNECTED_UDP, EXTERNAL_IP, FAR, HOST_NEAR, NEAR, NEAR_2, NODE, NODE_PORT,
        OUTSIDE_CLIENT, POD, SCTP, TCP, UDP, VIP,
    },
    world::{NAME, PROXY_NAME},
};
use crate::topology::Family;
use serde_json::json;

pub(super) fn cases() -> Vec<Case> {
    [kinds(), labels(), slices()].into_iter().flatten().collect()
}

/// Types, families and ports of Services.
fn kinds() -> Vec<Case> {
    vec![
        case("1.1", "cluster-ip", "Every client in the cluster reaches all ready endpoints")
            .service(json!({}))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.1", "headless", "`clusterIP: None`: nothing is served, not even external IPs")
            .service(json!({"clusterIP": "None", "externalIPs": true}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE, OUTSIDE_CLIENT], EXTERNAL_IP, silence()),
        case(
            "1.1",
            "type-changes",
            "ClusterIP, NodePort, LoadBalancer, ExternalName and back, live",
        )
        .service(json!({}))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
        .patch(json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Local"}}))
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR]))
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR]))
        .patch(json!({"spec": {"type": "LoadBalancer"}}))
        .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR]))
        .patch(json!({
            "spec": {"type": "ClusterIP", "externalTrafficPolicy": null,
                     "healthCheckNodePort": null},
            "status": {"loadBalancer": {"ingress": []}},
        }))
        .expect(&[OUTSIDE_CLIENT], VIP, silence())
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR])),
        case("1.1", "external-name", "A Service that becomes ExternalName is no longer served")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .patch_and_remember(json!({"spec": {
                "type": "ExternalName", "externalName": "example.com", "clusterIP": null,
                "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
            }}))
            .expect(&[POD, NODE], CLUSTER_IP, silence())
            .patch(json!({"spec": {
                "type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "PreferDualStack",
            }}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "one-family", "No ClusterIP of a family: nothing of that family is served")
            .service(json!({
                "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "externalIPs": true,
            }))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .family(Family::V4)
            .expect(&[POD, NODE], EXTERNAL_IP, silence())
            .family(Family::V6),
        case("1.1", "port-names", "Endpoints are joined by the port's name, not by its number")
            .service(json!({"ports": [
                {"name": "udp", "port": 80, "protocol": "TCP"},
                {"name": "http", "port": 80, "protocol": "UDP"},
                {"name": "sctp", "port": 80, "protocol": "SCTP"},
            ]}))
            .slices(&[(
                &[NEAR],
                json!({"ports": [
                    {"name": "udp", "port": 8080, "protocol": "TCP"},
                    {"name": "other", "port": 8080, "protocol": "UDP"},
                    {"name": "sctp", "port": 8080, "protocol": "SCTP"},
                ]}),
            )])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .over(&[TCP, SCTP])
            .expect(&[POD], CLUSTER_IP, refused())
            .over(&[CONNECTED_UDP]),
        case("1.1", "not-read", "Fields that only others read change nothing")
            .service(json!({
                "type": "LoadBalancer", "loadBalancerClass": "example.com/lb",
                "allocateLoadBalancerNodePorts": false, "publishNotReadyAddresses": true,
            }))
            .endpoints(&[NEAR, FAR.unready()])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "same-port-number", "One number for TCP, UDP and SCTP is three ports")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .patch(json!({"spec": {"ports": [
                {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
            ]}}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .over(&[UDP, CONNECTED_UDP])
            .expect(&[POD], CLUSTER_IP, refused())
            .over(&[TCP, SCTP])
            .but(IPTABLES, silence(), UNSERVED),
    ]
}

/// Why iptables mode is silent where nftables mode refuses.
const UNSERVED: &str = "in iptables mode nobody answers for a port that a ClusterIP does not serve";

/// Why kube-proxy does not take part in names.
const NO_NAME: &str = "kube-proxy 1.36 cannot be given a name, only newer ones can";

/// The two labels that keep objects from the proxy.
fn labels() -> Vec<Case> {
    let named = |value: Option<&str>| json!({"metadata": {"labels": {PROXY_NAME: value}}});
    vec![
        case("1.1", "proxy-name", "Label `service-proxy-name`: ignored, whatever its value; live")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .patch(named(Some("somebody")))
            .expect(&[POD, NODE], CLUSTER_IP, silence())
            .patch(named(Some("")))
            .expect(&[POD, NODE], CLUSTER_IP, silence())
            .patch(named(None))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case(
            "1.1",
            "own-proxy-name",
            "A proxy with a name handles the objects with that label only",
        )
        .under(Setup::Named)
        .service(named(Some(NAME)))
        .slices(&[(&[NEAR], named(Some(NAME)))])
        .service_named("other", json!({}))
        .endpoints_of("other", &[NEAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
        .but(KUBE_PROXY, silence(), NO_NAME)
        .expect(&[POD], CLUSTER_IP.of("other"), silence())
        .but(KUBE_PROXY, reach(&[NEAR]), NO_NAME),
        case(
            "1.1",
            "headless-label",
            "Label `headless` on slices: their endpoints are ignored; live",
        )
        .service(json!({}))
        .endpoints(&[NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .slices(&[(&[NEAR], json!({"metadata": {"labels": {HEADLESS: ""}}}))])
        .expect(&[POD], CLUSTER_IP, refused())
        .slices(&[(&[NEAR], json!({}))])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "headless-label-on-service", "Label `headless` on a Service")
            .service(json!({"metadata": {"labels": {HEADLESS: ""}}}))
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR])),
    ]
}

const HEADLESS: &str = "service.kubernetes.io/headless";

/// What counts in EndpointSlices.
fn slices() -> Vec<Case> {
    const NIL: Option<bool> = None;
    vec![
        case(
            "1.1",
            "slice-without-service",
            "A slice needs the label `kubernetes.io/service-name`",
        )
        .service(json!({}))
        .slices(&[
            (&[NEAR], json!({})),
            (&[FAR], json!({"metadata": {"labels": {"kubernetes.io/service-name": null}}})),
        ])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "two-slices", "The endpoints of all slices count, each port number by itself")
            .service(json!({}))
            .slices(&[(&[NEAR, HOST_NEAR], json!({})), (&[FAR], json!({}))])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR, HOST_NEAR])),
        case(
            "1.1",
            "slice-without-port",
            "A port without number, and one of another name, is ignored",
        )
        .service(json!({}))
        .slices(&[
            (&[NEAR], json!({})),
            (&[FAR], json!({"ports": [{"name": "tcp", "protocol": "TCP"}]})),
            (
                &[NEAR_2],
                json!({"ports": [
                    {"name": "other", "port": 8080, "protocol": "TCP"},
                ]}),
            ),
        ])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "first-address", "Of an endpoint's addresses only the first counts")
            .service(json!({}))
            .then("a slice with two addresses in one endpoint", |trial| {
                trial.put_addresses(&[NEAR, FAR])
            })
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "no-node-name", "An endpoint without `nodeName` is local to no node")
            .service(json!({"internalTrafficPolicy": "Local"}))
            .then("a slice with such an endpoint", |trial| {
                for family in Family::ALL {
                    let ip = trial.lab().pod(NEAR.pod)?.address.get(family);
                    let name = format!("nowhere-{family}");
                    trial.put_raw(&name, family, &[json!({"addresses": [ip]})], &json!({}))?;
                }
                Ok(())
            })
            .expect(&[POD, NODE], CLUSTER_IP, silence())
            .patch(json!({"spec": {"internalTrafficPolicy": "Cluster"}}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "condition-defaults", "`ready` unset is true, `serving` unset is true")
            .service(json!({}))
            .endpoints(&[NEAR.conditions([NIL, NIL, NIL]), FAR.unready()])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .endpoints(&[
                NEAR.conditions([Some(false), NIL, Some(true)]),
                FAR.conditions([Some(false), Some(true), NIL]),
            ])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("1.1", "same-address-twice", "Of one address in two slices the one that runs counts")
            .service(json!({}))
            .slices(&[(&[NEAR.draining()], json!({})), (&[NEAR, FAR.draining()], json!({}))])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .slices(&[(&[NEAR, FAR.draining()], json!({})), (&[NEAR.ending()], json!({}))])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case(
            "1.1",
            "other-family-slice",
            "A slice of the other family, or of names, does not count",
        )
        .service(json!({}))
        .slices(&[(&[NEAR], json!({}))])
        .then("a slice of names", |trial| {
            let names = json!({"addressType": "FQDN"});
            trial.put_raw("names", Family::V4, &[json!({"addresses": ["example.com"]})], &names)
        })
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
    ]
}

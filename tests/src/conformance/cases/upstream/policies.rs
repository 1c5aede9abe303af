//! `service.go`, `loadbalancer.go` and `traffic_distribution.go`: policies, affinity, labels.

use super::super::super::{
    case::{Case, case, masked, reach, refused, silence},
    place::{
        AWAY, AWAY_NODE, AWAY_NODE_PORT, AWAY_POD, AWAY_VIP, CLUSTER_IP, Endpoint, FAR, FAR_2,
        HOME, HOST_FAR, HOST_NEAR, NEAR, NEAR_2, NODE, NODE_PORT, OUTSIDE_CLIENT, POD, TCP, THIRD,
        THIRD_NODE_PORT, Target, UDP, VIP, WAYS,
    },
    trial::Trial,
    world::PROXY_NAME,
};
use super::super::{
    affinity::{ends, lasts, short},
    health,
};
use crate::topology::OUTSIDE_ADDRESS;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

pub(super) fn cases() -> Vec<Case> {
    [affinity(), labels(), local(), fallback(), balanced(), esipp(), distribution()]
        .into_iter()
        .flatten()
        .collect()
}

const THREE: &[Endpoint] = &[NEAR, FAR, THIRD];

fn sticks(trial: &Trial<'_>, target: Target) -> Result<()> {
    trial.everywhere(WAYS, |family, way| trial.only(POD, way, target, family, 15).map(drop))
}

fn affinity() -> Vec<Case> {
    let sticky = |kind: &str| json!({"type": kind, "sessionAffinity": "ClientIP"});
    let switch = |to: &str| json!({"spec": {"sessionAffinity": to}});
    vec![
        case(
            "2",
            "up-affinity",
            "should have session affinity work for service with type clusterIP",
        )
        .service(sticky("ClusterIP"))
        .endpoints(THREE)
        .check("15 requests, one endpoint", |trial| sticks(trial, CLUSTER_IP)),
        case(
            "2",
            "up-affinity-node-port",
            "should have session affinity work for NodePort service",
        )
        .service(sticky("NodePort"))
        .endpoints(THREE)
        .check("15 requests, one endpoint", |trial| sticks(trial, NODE_PORT)),
        case(
            "2",
            "up-affinity-timeout",
            "should have session affinity timeout work for service with type clusterIP",
        )
        .service(short(&json!({})))
        .endpoints(THREE)
        .check("one endpoint until it ends", |trial| lasts(trial, POD, CLUSTER_IP))
        .check("then others", |trial| ends(trial, POD, CLUSTER_IP)),
        case(
            "2",
            "up-affinity-timeout-node-port",
            "should have session affinity timeout work for NodePort service",
        )
        .service(short(&json!({"type": "NodePort"})))
        .endpoints(THREE)
        .check("one endpoint until it ends", |trial| lasts(trial, OUTSIDE_CLIENT, NODE_PORT))
        .check("then others", |trial| ends(trial, OUTSIDE_CLIENT, NODE_PORT)),
        case(
            "2",
            "up-affinity-switch",
            "should be able to switch session affinity for service with type clusterIP",
        )
        .service(sticky("ClusterIP"))
        .endpoints(THREE)
        .check("one endpoint", |trial| sticks(trial, CLUSTER_IP))
        .patch(switch("None"))
        .expect(&[POD, NODE], CLUSTER_IP, reach(THREE))
        .patch(switch("ClientIP"))
        .check("one endpoint again", |trial| sticks(trial, CLUSTER_IP)),
        case(
            "2",
            "up-affinity-switch-node-port",
            "should be able to switch session affinity for NodePort service",
        )
        .service(sticky("NodePort"))
        .endpoints(THREE)
        .check("one endpoint", |trial| sticks(trial, NODE_PORT))
        .patch(switch("None"))
        .expect(&[POD, OUTSIDE_CLIENT], NODE_PORT, masked(THREE))
        .patch(switch("ClientIP"))
        .check("one endpoint again", |trial| sticks(trial, NODE_PORT)),
    ]
}

fn labels() -> Vec<Case> {
    vec![
        case("2", "up-proxy-name", "should implement service.kubernetes.io/service-proxy-name")
            .service(json!({"metadata": {"labels": {PROXY_NAME: "foo-bar"}}}))
            .endpoints(&[NEAR])
            .service_named("plain", json!({}))
            .endpoints_of("plain", &[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP.of("plain"), reach(&[NEAR]))
            .expect(&[POD, NODE], CLUSTER_IP, silence())
            .patch(json!({"metadata": {"labels": {PROXY_NAME: null}}}))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR])),
        case("2", "up-headless", "should implement service.kubernetes.io/headless")
            .service(json!({"metadata": {"labels": {HEADLESS: ""}}}))
            .slices(&[(&[NEAR], json!({"metadata": {"labels": {HEADLESS: ""}}}))])
            .expect(&[POD, NODE], CLUSTER_IP, refused())
            .patch(json!({"metadata": {"labels": {HEADLESS: null}}}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .patch(json!({"metadata": {"labels": {HEADLESS: ""}}}))
            .slices(&[(&[NEAR], json!({"metadata": {"labels": {HEADLESS: ""}}}))])
            .expect(&[POD, NODE], CLUSTER_IP, refused()),
        case("2", "up-rejected", "should be rejected when no endpoints exist")
            .service(json!({}))
            .expect(&[POD, NODE], CLUSTER_IP, refused()),
    ]
}

const HEADLESS: &str = "service.kubernetes.io/headless";

fn local() -> Vec<Case> {
    let local = json!({"internalTrafficPolicy": "Local"});
    vec![
        case("2", "up-internal-local", "should respect internalTrafficPolicy=Local Pod to Pod")
            .service(local.clone())
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[AWAY_POD], CLUSTER_IP, silence()),
        case(
            "2",
            "up-internal-local-host",
            "should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod",
        )
        .service(local.clone())
        .endpoints(&[NEAR])
        .expect(&[NODE], CLUSTER_IP, reach(&[NEAR]))
        .expect(&[AWAY_NODE], CLUSTER_IP, silence()),
        case(
            "2",
            "up-internal-local-to-host",
            "should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)",
        )
        .service(local)
        .endpoints(&[HOST_NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[HOST_NEAR]))
        .check("the node reaches it", |trial| {
            trial.everywhere(WAYS, |family, way| {
                let name = trial.only(NODE, way, CLUSTER_IP, family, 5)?;
                ensure!(name == HOST_NEAR.pod, "{name}");
                Ok(())
            })
        })
        .expect(&[AWAY_POD, AWAY_NODE], CLUSTER_IP, silence()),
    ]
}

/// Terminating endpoints as last resort, and how they got so: pods that terminate.
fn fallback() -> Vec<Case> {
    const HERE: Endpoint = Endpoint::of("up-fallback-internal-1", HOME);
    const HERE_LOCAL: Endpoint = Endpoint::of("up-fallback-internal-local-1", HOME);
    const OUT: Endpoint = Endpoint::of("up-fallback-external-1", HOME);
    const OUT_LOCAL: Endpoint = Endpoint::of("up-fallback-external-local-1", HOME);
    let with = |more: Value| {
        let mut spec = json!({"selector": true});
        crate::manifest::merge(&mut spec, &more);
        spec
    };
    vec![
        case(
            "2",
            "up-fallback-internal",
            "should fallback to terminating endpoints when there are no ready endpoints with \
             internalTrafficPolicy=Cluster",
        )
        .service(with(json!({})))
        .pods(&[("1", HOME)])
        .expect(&[POD], CLUSTER_IP, reach(&[HERE]))
        .then("the pod terminates", terminate)
        .expect(&[POD, AWAY_POD, NODE], CLUSTER_IP, reach(&[HERE])),
        case(
            "2",
            "up-fallback-internal-local",
            "should fallback to local terminating endpoints when there are no ready endpoints with \
             internalTrafficPolicy=Local",
        )
        .service(with(json!({"internalTrafficPolicy": "Local"})))
        .pods(&[("1", HOME)])
        .expect(&[POD], CLUSTER_IP, reach(&[HERE_LOCAL]))
        .then("the pod terminates", terminate)
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[HERE_LOCAL]))
        .expect(&[AWAY_POD], CLUSTER_IP, silence()),
        case(
            "2",
            "up-fallback-external",
            "should fallback to terminating endpoints when there are no ready endpoints with \
             externallTrafficPolicy=Cluster",
        )
        .service(with(json!({"type": "NodePort"})))
        .pods(&[("1", HOME)])
        .expect(&[POD], CLUSTER_IP, reach(&[OUT]))
        .then("the pod terminates", terminate)
        .expect(&[OUTSIDE_CLIENT, POD], NODE_PORT, masked(&[OUT]))
        .expect(&[OUTSIDE_CLIENT, POD], AWAY_NODE_PORT, masked(&[OUT])),
        case(
            "2",
            "up-fallback-external-local",
            "should fallback to local terminating endpoints when there are no ready endpoints with \
             externalTrafficPolicy=Local",
        )
        .service(with(json!({"type": "NodePort", "externalTrafficPolicy": "Local"})))
        .pods(&[("1", HOME)])
        .expect(&[POD], CLUSTER_IP, reach(&[OUT_LOCAL]))
        .then("the pod terminates", terminate)
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[OUT_LOCAL]))
        .expect(&[OUTSIDE_CLIENT], AWAY_NODE_PORT, silence()),
    ]
}

fn terminate(trial: &Trial<'_>) -> Result<()> {
    trial.lab().terminate_pod(&trial.name("1"))
}

fn balanced() -> Vec<Case> {
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let own = OUTSIDE_ADDRESS;
    let ranges = [format!("{}/32", own.v4), format!("{}/128", own.v6)];
    vec![
        case(
            "2",
            "up-lb-change",
            "should be able to change the type and ports of a TCP/UDP service",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(&[NEAR])
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
        .patch(json!({"spec": {"type": "LoadBalancer"}}))
        .expect(&[OUTSIDE_CLIENT], VIP, masked(&[NEAR]))
        .patch(json!({"spec": {"ports": [
            {"name": "tcp", "port": 81, "targetPort": 8080, "protocol": "TCP"},
            {"name": "udp", "port": 81, "targetPort": 8080, "protocol": "UDP"},
        ]}}))
        .expect(&[OUTSIDE_CLIENT], VIP.port(81), masked(&[NEAR]))
        .over(&[TCP, UDP])
        .expect(&[OUTSIDE_CLIENT], VIP, silence())
        .over(&[TCP, UDP])
        .endpoints(&[])
        .expect(&[OUTSIDE_CLIENT], VIP.port(81), refused())
        .over(&[TCP, UDP])
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, refused())
        .over(&[TCP, UDP]),
        case(
            "2",
            "up-lb-no-node-port",
            "should be able to create LoadBalancer Service without NodePort",
        )
        .service(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}))
        .endpoints(&[NEAR])
        .expect(&[OUTSIDE_CLIENT, POD], VIP, masked(&[NEAR])),
        case(
            "2",
            "up-lb-source-ranges",
            "should only allow access from service loadbalancer source ranges [Slow]",
        )
        .service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}))
        .endpoints(&[NEAR])
        .expect(&[OUTSIDE_CLIENT], VIP, masked(&[NEAR]))
        .expect(&[POD], VIP, silence())
        .patch(json!({"spec": {
            "loadBalancerSourceRanges": ["10.10.0.0/16", "fd00:10:10::/48"],
        }}))
        .expect(&[OUTSIDE_CLIENT], VIP, silence())
        .expect(&[POD], VIP, masked(&[NEAR])),
        case(
            "2",
            "up-lb-affinity",
            "should have session affinity work for LoadBalancer service with Local and Cluster traffic \
             policy",
        )
        .service(json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}))
        .endpoints(&[NEAR, NEAR_2, FAR, FAR_2])
        .check("Cluster: one endpoint", |trial| one_by_vip(trial, &[NEAR, NEAR_2, FAR, FAR_2]))
        .patch(json!({"spec": {"externalTrafficPolicy": "Local"}}))
        .check("Local: one endpoint of the node", |trial| one_by_vip(trial, &[NEAR, NEAR_2])),
        case(
            "2",
            "up-health-check-changes",
            "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy \
             changes",
        )
        .service(local)
        .endpoints(&[NEAR])
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT], AWAY_NODE_PORT, silence())
        .check("the health check tells the nodes apart", |trial| {
            health::service_codes(trial, 200, 503)
        })
        .patch_and_remember(json!({"spec": {"externalTrafficPolicy": "Cluster"}}))
        .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
        .expect(&[OUTSIDE_CLIENT], AWAY_NODE_PORT, masked(&[NEAR]))
        .check("there is no health check", health::service_health_closed),
    ]
}

/// External sources are preserved.
fn esipp() -> Vec<Case> {
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    vec![
        case("2", "up-esipp", "ESIPP: should work for type=LoadBalancer")
            .service(local.clone())
            .endpoints(&[NEAR, FAR])
            .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR])),
        case("2", "up-esipp-node-port", "ESIPP: should work for type=NodePort")
            .service(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}))
            .endpoints(&[NEAR, FAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, reach(&[NEAR])),
        case("2", "up-esipp-targets", "ESIPP: should only target nodes with endpoints")
            .service(local.clone())
            .endpoints(&[FAR])
            .expect(&[OUTSIDE_CLIENT], AWAY_VIP, reach(&[FAR]))
            .expect(&[OUTSIDE_CLIENT], VIP, silence())
            .expect(&[OUTSIDE_CLIENT], THIRD_NODE_PORT, silence()),
        case("2", "up-esipp-pods", "ESIPP: should work from pods")
            .service(local.clone())
            .endpoints(&[FAR])
            .expect(&[POD, AWAY_POD], VIP, reach(&[FAR])),
        case(
            "2",
            "up-esipp-updates",
            "ESIPP: should handle updates to ExternalTrafficPolicy field",
        )
        .service(local)
        .endpoints(&[NEAR, FAR])
        .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR]))
        .patch(json!({"spec": {"externalTrafficPolicy": "Cluster"}}))
        .expect(&[OUTSIDE_CLIENT], VIP, masked(&[NEAR, FAR]))
        .expect(&[OUTSIDE_CLIENT], THIRD_NODE_PORT, masked(&[NEAR, FAR]))
        .patch(json!({"spec": {"externalTrafficPolicy": "Local"}}))
        .expect(&[OUTSIDE_CLIENT], VIP, reach(&[NEAR])),
    ]
}

/// The client outside gets one of these by the load balancer's address, and always that.
fn one_by_vip(trial: &Trial<'_>, of: &[Endpoint]) -> Result<()> {
    trial.everywhere(WAYS, |family, way| {
        let name = trial.only(OUTSIDE_CLIENT, way, VIP, family, 12)?;
        ensure!(of.iter().any(|endpoint| endpoint.pod == name), "{name} answers");
        Ok(())
    })
}

/// Hints as the real controller gives them.
fn distribution() -> Vec<Case> {
    const PODS: &[(&str, &crate::topology::NodeSpec)] = &[("1", HOME), ("2", AWAY)];
    let prefer = |what: &str| json!({"selector": true, "trafficDistribution": what});
    vec![
        case(
            "2",
            "up-prefer-close",
            "should route traffic to an endpoint in the same zone when using PreferClose",
        )
        .service(prefer("PreferClose"))
        .pods(PODS)
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[Endpoint::of("up-prefer-close-1", HOME)]))
        .expect(&[AWAY_POD], CLUSTER_IP, reach(&[Endpoint::of("up-prefer-close-2", AWAY)])),
        case(
            "2",
            "up-prefer-zone",
            "should route traffic to an endpoint in the same zone when using PreferSameZone",
        )
        .service(prefer("PreferSameZone"))
        .pods(PODS)
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[Endpoint::of("up-prefer-zone-1", HOME)]))
        .expect(&[AWAY_POD], CLUSTER_IP, reach(&[Endpoint::of("up-prefer-zone-2", AWAY)])),
        case(
            "2",
            "up-prefer-node",
            "should route traffic to an endpoint on the same node when using PreferSameNode",
        )
        .service(prefer("PreferSameNode"))
        .pods(PODS)
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[Endpoint::of("up-prefer-node-1", HOME)]))
        .expect(&[AWAY_POD], CLUSTER_IP, reach(&[Endpoint::of("up-prefer-node-2", AWAY)])),
        case("2", "up-host-network", "should function for service endpoints using hostNetwork")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[HOST_NEAR, HOST_FAR])
            .expect(&[POD], CLUSTER_IP, reach(&[HOST_NEAR, HOST_FAR]))
            .expect(&[AWAY_POD], CLUSTER_IP, reach(&[HOST_NEAR, HOST_FAR])),
        case("2", "up-update-endpoints", "should update endpoints")
            .service(json!({"selector": true, "type": "NodePort"}))
            .pods(PODS)
            .expect(
                &[POD, NODE],
                CLUSTER_IP,
                reach(&[
                    Endpoint::of("up-update-endpoints-1", HOME),
                    Endpoint::of("up-update-endpoints-2", AWAY),
                ]),
            )
            .then("a pod is deleted", |trial| trial.delete_pod("1"))
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[Endpoint::of("up-update-endpoints-2", AWAY)]))
            .expect(
                &[OUTSIDE_CLIENT],
                NODE_PORT,
                masked(&[Endpoint::of("up-update-endpoints-2", AWAY)]),
            ),
        case("2", "up-local-mixed", "should route only to the node's endpoints of several")
            .service(json!({"internalTrafficPolicy": "Local"}))
            .endpoints(&[NEAR, NEAR_2, FAR, FAR_2])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR, NEAR_2]))
            .expect(&[AWAY_POD], CLUSTER_IP, reach(&[FAR, FAR_2])),
    ]
}

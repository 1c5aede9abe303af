//! Section 1.2: frontends and how they are matched.

use super::super::{
    Column, IPTABLES, NFTABLES, NO_SCTP_HOOK, OURS_TC, SOCKETS,
    case::{Case, Setup, case, masked, reach, refused, silence},
    place::{
        AWAY_EXTERNAL_IP, AWAY_NODE, AWAY_NODE_PORT, AWAY_POD, AWAY_VIP, CLUSTER_IP, CONNECTED_UDP,
        EXTERNAL_IP, FAR, FREE_IP, GATEWAY_PORT, HOME, LOCALHOST, NEAR, NODE, NODE_PORT,
        OUTSIDE_CLIENT, POD, SCTP, TCP, UDP, VIP, WAYS,
    },
};
use super::health;
use crate::{
    suite::eventually,
    topology::{Family, OUTSIDE_ADDRESS},
};
use anyhow::ensure;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn cases() -> Vec<Case> {
    [addresses(), node_ports(), vec![passing_through()], load_balancers()]
        .into_iter()
        .flatten()
        .collect()
}

/// ClusterIPs and external IPs.
fn addresses() -> Vec<Case> {
    vec![
        case("1.2", "cluster-ip-from-everywhere", "A ClusterIP is served to whoever routes to it")
            .service(json!({}))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, AWAY_POD, NODE, AWAY_NODE], CLUSTER_IP, reach(&[NEAR, FAR]))
            .expect(&[OUTSIDE_CLIENT], CLUSTER_IP, masked(&[NEAR, FAR])),
        case("1.2", "unserved-port", "A port that a ClusterIP does not serve is refused")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .expect(&[POD, NODE], CLUSTER_IP.port(81), refused())
            .but(
                IPTABLES,
                silence(),
                "iptables mode has no rule for it: it leaves by the default route",
            ),
        case("1.2", "unallocated", "An address of the Services' ranges that none has: dropped")
            .service(json!({}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE, OUTSIDE_CLIENT], FREE_IP, silence()),
        case(
            "1.2",
            "external-ip",
            "externalIPs need not be on a node; pods and nodes reach them too",
        )
        .service(json!({"externalIPs": true}))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, NODE, OUTSIDE_CLIENT], EXTERNAL_IP, masked(&[NEAR, FAR]))
        .expect(&[OUTSIDE_CLIENT], AWAY_EXTERNAL_IP, masked(&[NEAR, FAR])),
        case("1.2", "external-ip-removed", "An external IP that is taken away is no longer served")
            .service(json!({"externalIPs": true}))
            .endpoints(&[NEAR])
            .expect(&[POD], EXTERNAL_IP, masked(&[NEAR]))
            .patch(json!({"spec": {"externalIPs": null}}))
            .expect(&[POD, NODE, OUTSIDE_CLIENT], EXTERNAL_IP, silence())
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR])),
        case(
            "1.2",
            "external-ip-twice",
            "Two Services claim an address: one serves it, ours the older",
        )
        .service(json!({"externalIPs": true}))
        .endpoints(&[NEAR])
        .expect(&[POD], EXTERNAL_IP, masked(&[NEAR]))
        .then("another Service claims it", |trial| {
            let taken = trial.service("")?.value()["spec"]["externalIPs"].clone();
            trial.create("second", &json!({"externalIPs": taken}))?;
            trial.set_endpoints("second", &[FAR])
        })
        .expect(&[POD], CLUSTER_IP.of("second"), reach(&[FAR]))
        .check("one of the two answers", |trial| {
            trial.everywhere(&[TCP, SCTP], |family, way| {
                let name = trial.only(POD, way, EXTERNAL_IP, family, 12)?;
                let older = name == NEAR.pod;
                ensure!(older || !trial.column().is_ours(), "{name} answers");
                Ok(())
            })
        })
        .delete()
        .check("then the other", |trial| {
            trial.everywhere(&[TCP, SCTP], |family, way| {
                eventually(PATIENCE, || {
                    let name = trial.only(POD, way, EXTERNAL_IP, family, 12)?;
                    ensure!(name == FAR.pod, "{name} answers");
                    Ok(())
                })
            })
        }),
        case(
            "1.2",
            "external-ip-other-port",
            "Other ports of an external IP are not ours to refuse",
        )
        .service(json!({"externalIPs": true}))
        .endpoints(&[NEAR])
        .expect(&[POD], EXTERNAL_IP, masked(&[NEAR]))
        .expect(&[POD, NODE], EXTERNAL_IP.port(81), silence()),
    ]
}

/// NodePorts.
fn node_ports() -> Vec<Case> {
    vec![
        case("1.2", "node-port", "A NodePort is served on every node's primary addresses")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR, FAR])
            .expect(&[OUTSIDE_CLIENT, POD, NODE], NODE_PORT, masked(&[NEAR, FAR]))
            .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
            .expect(&[OUTSIDE_CLIENT, POD, NODE], AWAY_NODE_PORT, masked(&[NEAR, FAR])),
        case(
            "1.2",
            "node-port-primary",
            "nodePortAddresses `primary`: no other address of the node",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(&[NEAR])
        .expect(&[POD], NODE_PORT, masked(&[NEAR]))
        .expect(&[POD, NODE], GATEWAY_PORT, refused())
        .over(&[TCP, CONNECTED_UDP]),
        case("1.2", "node-port-all", "nodePortAddresses of everything: all but loopback addresses")
            .under(Setup::MasqueradeAll)
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE, OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
            .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
            .expect(&[POD], GATEWAY_PORT, masked(&[NEAR]))
            .expect(&[NODE], GATEWAY_PORT, masked(&[NEAR]))
            .family(Family::V6)
            .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
            .expect(&[NODE], GATEWAY_PORT, masked(&[NEAR]))
            .family(Family::V4)
            .but_for(NODE, &[SCTP], SOCKETS, silence(), NO_SCTP_HOOK)
            .but(
                OURS_TC,
                silence(),
                "by tc alone the answer arrives by the uplink, where the reverse path filter knows \
                 no address of another device",
            ),
        case(
            "1.2",
            "node-port-range",
            "nodePortAddresses with ranges of one family: the other family is served everywhere",
        )
        .under(Setup::Range)
        .service(json!({"type": "NodePort"}))
        .endpoints(&[NEAR])
        .expect(&[POD, OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
        .expect(&[POD], GATEWAY_PORT, refused())
        .family(Family::V4)
        .over(&[TCP, CONNECTED_UDP])
        .expect(&[POD], GATEWAY_PORT, masked(&[NEAR]))
        .family(Family::V6),
        case("1.2", "node-port-localhost", "NodePorts on 127.0.0.1 and ::1")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR, FAR])
            .expect(&[NODE], LOCALHOST, masked(&[NEAR, FAR]))
            .over(&[TCP, UDP])
            .but(
                NFTABLES,
                refused(),
                "nftables mode serves no loopback address; users of iptables mode rely on it, so \
                 ours does, in both families",
            )
            .but(IPTABLES, refused(), "not with nodePortAddresses `primary`")
            .but(OURS_TC, refused(), "by tc alone nothing can serve a loopback address"),
        case(
            "1.2",
            "node-port-released",
            "A deleted Service's NodePort answers no more; nobody listens",
        )
        .service(json!({"type": "NodePort"}))
        .endpoints(&[NEAR])
        .expect(&[POD], NODE_PORT, masked(&[NEAR]))
        .check("nothing on the node listens on the port", |trial| {
            let port = trial.service("")?.node_port(0)?;
            let node = trial.lab().node(HOME.name)?;
            let listening = node.space.output("ss", &["-ltnuH", &format!("sport = :{port}")])?;
            ensure!(listening.trim().is_empty(), "{listening}");
            Ok(())
        })
        .delete()
        .expect(&[POD, NODE, OUTSIDE_CLIENT], NODE_PORT, refused())
        .over(&[TCP, CONNECTED_UDP]),
        case("1.2", "node-port-protocols", "Each protocol of a port has a NodePort of its own")
            .service(json!({"type": "NodePort", "ports": [
                {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"},
            ]}))
            .endpoints(&[NEAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[NEAR]))
            .over(&[TCP])
            .patch(json!({"spec": {"ports": [
                {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"},
                {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
                {"name": "sctp", "port": 80, "targetPort": 8080, "protocol": "SCTP"},
            ]}}))
            .expect(&[OUTSIDE_CLIENT, POD], NODE_PORT, masked(&[NEAR]))
            .over(&[TCP, UDP, CONNECTED_UDP, SCTP]),
    ]
}

/// A node without endpoints.
fn passing_through() -> Case {
    case(
        "1.2",
        "node-port-passing-through",
        "A node without endpoints sends packets from outside on, and answers back",
    )
    .service(json!({"type": "NodePort"}))
    .endpoints(&[FAR])
    .expect(&[OUTSIDE_CLIENT], NODE_PORT, masked(&[FAR]))
    .check("with XDP it is the uplink that turns them round", |trial| {
        if trial.column() != Column::OursXdp {
            return Ok(());
        }
        eventually(PATIENCE, || {
            let page = health::metrics(trial)?;
            let name = "datapath_outcomes_total{outcome=\"turned_round\"} ";
            let turned = page.lines().find_map(|line| line.strip_prefix(name));
            ensure!(turned.is_some_and(|count| count != "0"), "{turned:?} frames turned round");
            Ok(())
        })
    })
}

/// Load balancer addresses.
fn load_balancers() -> Vec<Case> {
    let balanced = |more: Value| {
        let mut spec = json!({"type": "LoadBalancer"});
        crate::manifest::merge(&mut spec, &more);
        spec
    };
    let ranges = |ranges: &[&str]| json!({"spec": {"loadBalancerSourceRanges": ranges}});
    let [own4, own6] = OUTSIDE_ADDRESS.both().map(|ip| ip.to_string());
    let (one4, one6) = (format!("{own4}/32"), format!(" {own6}/128 "));
    vec![
        case("1.2", "lb-address", "Load balancer addresses (ipMode VIP) are served to everybody")
            .service(balanced(json!({"ipMode": "VIP"})))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, masked(&[NEAR, FAR]))
            .expect(&[OUTSIDE_CLIENT], AWAY_VIP, masked(&[NEAR, FAR])),
        case("1.2", "lb-address-proxy-mode", "ipMode Proxy: left to the load balancer")
            .service(balanced(json!({"ipMode": "Proxy"})))
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, silence())
            .expect(&[POD], NODE_PORT, masked(&[NEAR, FAR])),
        case(
            "1.2",
            "lb-source-ranges",
            "Source ranges: others are dropped, at this address only; live",
        )
        .service(balanced(json!({"externalIPs": true})))
        .endpoints(&[NEAR, FAR])
        .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, masked(&[NEAR, FAR]))
        .patch(ranges(&[&one4, &one6]))
        .expect(&[OUTSIDE_CLIENT], VIP, masked(&[NEAR, FAR]))
        .expect(&[POD, NODE], VIP, silence())
        .expect(&[POD, NODE], EXTERNAL_IP, masked(&[NEAR, FAR]))
        .expect(&[POD], NODE_PORT, masked(&[NEAR, FAR]))
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR, FAR]))
        .patch(ranges(&["192.0.2.0/24", "2001:db8:ffff::/48"]))
        .expect(&[OUTSIDE_CLIENT], VIP, silence())
        .patch(json!({"spec": {"loadBalancerSourceRanges": null}}))
        .expect(&[POD, OUTSIDE_CLIENT], VIP, masked(&[NEAR, FAR])),
        case("1.2", "lb-source-ranges-other-family", "Ranges of one family leave the other open")
            .service(balanced(json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, silence())
            .family(Family::V4)
            .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, masked(&[NEAR]))
            .family(Family::V6),
        case(
            "1.2",
            "lb-source-ranges-node",
            "A range that contains the node lets its processes in",
        )
        .service(balanced(json!({
            "loadBalancerSourceRanges": ["172.18.0.3/32", "fc00:f853:ccd:e793::3/128"],
        })))
        .endpoints(&[NEAR])
        .expect(&[NODE], VIP, masked(&[NEAR]))
        .expect(&[POD, AWAY_NODE, OUTSIDE_CLIENT], VIP, silence()),
        case(
            "1.2",
            "lb-source-ranges-nobody-serves",
            "Who may not come is not told either that nobody serves",
        )
        .service(balanced(json!({"loadBalancerSourceRanges": [&one4, &one6]})))
        .endpoints(&[])
        .expect(&[OUTSIDE_CLIENT], VIP, refused())
        .expect(&[POD, NODE], VIP, silence())
        .but_for(
            POD,
            WAYS,
            IPTABLES,
            refused(),
            "iptables mode looks for endpoints before it looks at the source",
        ),
        case("1.2", "lb-address-removed", "An address that the load balancer loses is not served")
            .service(balanced(json!({})))
            .endpoints(&[NEAR])
            .expect(&[POD], VIP, masked(&[NEAR]))
            .patch(
                json!({"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}}),
            )
            .expect(&[POD, NODE, OUTSIDE_CLIENT], VIP, silence()),
    ]
}

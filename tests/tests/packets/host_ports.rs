//! Host ports of pods.

use crate::{
    SAME, Step, TCP, UDP,
    frame::{describe, frame},
    node::{
        FROM_POD, FROM_UPLINK, GATEWAY, NODE, NODE6, TO_UPLINK,
        Verdict::{Next, Redirect},
        network,
    },
    reference, tell,
};
use datapath_common::ConfigFlags;

#[test]
fn a_host_port_leads_to_its_pod_by_address_and_protocol() {
    let Some(mut node) = reference() else { return };
    network("route add default dev lo\n");
    node.host("172.18.0.9");
    node.host_port(20, (NODE, 54_323, TCP), ("10.10.3.5", 8080));
    node.host_port(21, (NODE, 54_323, UDP), ("10.10.3.6", 8081));
    node.host_port(22, ("172.18.0.9", 54_323, TCP), ("10.10.3.6", 8080));
    node.host_port(23, (NODE6, 54_323, TCP), ("fd00:10:10:3::5", 8080));
    let stories: &[(&str, &[Step<'_>])] = &[
        (
            "from outside, with the client's address",
            &[
                (
                    FROM_UPLINK,
                    "172.18.0.100:40000 > 172.18.0.3:54323 tcp S",
                    Redirect,
                    "172.18.0.100:40000 > 10.10.3.5:8080 tcp S ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.5:8080 > 172.18.0.100:40000 tcp SA",
                    Redirect,
                    "172.18.0.3:54323 > 172.18.0.100:40000 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "the other protocol",
            &[(
                FROM_UPLINK,
                "172.18.0.100:40000 > 172.18.0.3:54323 udp",
                Redirect,
                "172.18.0.100:40000 > 10.10.3.6:8081 udp ttl=63",
            )],
        ),
        (
            "another address of the node",
            &[(
                FROM_UPLINK,
                "172.18.0.100:40000 > 172.18.0.9:54323 tcp S",
                Redirect,
                "172.18.0.100:40000 > 10.10.3.6:8080 tcp S ttl=63",
            )],
        ),
        (
            "IPv6",
            &[(
                FROM_UPLINK,
                "[fc00:f853:ccd:e793::100]:40000 > [fc00:f853:ccd:e793::3]:54323 tcp S",
                Redirect,
                "[fc00:f853:ccd:e793::100]:40000 > [fd00:10:10:3::5]:8080 tcp S ttl=63",
            )],
        ),
        (
            "from a pod of the node",
            &[(
                FROM_POD,
                "10.10.3.6:40000 > 172.18.0.3:54323 tcp S",
                Redirect,
                "10.10.3.6:40000 > 10.10.3.5:8080 tcp S ttl=63",
            )],
        ),
        (
            "a port that nobody has is the node's own",
            &[(FROM_UPLINK, "172.18.0.100:40000 > 172.18.0.3:54324 tcp S", Next, SAME)],
        ),
    ];
    for (title, steps) in stories {
        tell(&mut node, title, steps);
    }
}

#[test]
fn a_pod_that_dials_its_own_host_port_does_not_see_itself() {
    let Some(mut node) = reference() else { return };
    node.host_port(20, (NODE, 54_323, TCP), ("10.10.3.5", 8080));
    let (verdict, out) = node.run(FROM_POD, &frame("10.10.3.5:40000 > 172.18.0.3:54323 tcp S"));
    assert_eq!(verdict, Redirect);
    let seen = describe(&out);
    let (client, rest) = seen.split_once(" > ").expect("a description");
    assert!(client.starts_with(&format!("{GATEWAY}:")), "{seen}");
    assert_eq!(rest, "10.10.3.5:8080 tcp S ttl=63");
}

#[test]
fn without_socket_hooks_the_node_itself_reaches_it_through_the_loopback_device() {
    let Some(mut node) = reference() else { return };
    node.configure(ConfigFlags::NATIVE_ROUTING.with(ConfigFlags::LOOPBACK));
    node.host_port(20, (NODE, 54_323, TCP), ("10.10.3.5", 8080));
    tell(
        &mut node,
        "to an address of the node",
        &[
            (
                TO_UPLINK,
                "172.18.0.3:40000 > 172.18.0.3:54323 tcp S",
                Redirect,
                "172.18.0.3:40000 > 10.10.3.5:8080 tcp S ttl=63",
            ),
            (
                FROM_POD,
                "10.10.3.5:8080 > 172.18.0.3:40000 tcp SA",
                Redirect,
                "172.18.0.3:54323 > 172.18.0.3:40000 tcp SA",
            ),
        ],
    );
}

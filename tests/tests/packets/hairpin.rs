//! Clients that are their own backend, or share its node.

use crate::{
    TCP,
    frame::{describe, frame},
    node::{
        FROM_POD, FROM_UPLINK, TO_UPLINK,
        Verdict::{Drop, Redirect},
    },
    reference, tell,
};
use datapath_common::{ConfigFlags, Outcome};

#[test]
fn a_pod_reaches_itself() {
    let Some(mut node) = reference() else { return };
    let (verdict, out) = node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.14:80 tcp S"));
    assert_eq!(verdict, Redirect);
    let seen = describe(&out);
    let (client, rest) = seen.split_once(" > ").expect("a description");
    assert!(client.starts_with("10.10.3.1:"), "the pod must not see itself: {seen}");
    assert_eq!(rest, "10.10.3.5:8080 tcp S ttl=63");
    let answer = format!("10.10.3.5:8080 > {client} tcp SA");
    tell(
        &mut node,
        "hairpin",
        &[(FROM_POD, &answer, Redirect, "10.200.1.14:80 > 10.10.3.5:40000 tcp SA ttl=63")],
    );
}

#[test]
fn a_host_reaches_a_service_of_its_own_network() {
    let Some(mut node) = reference() else { return };
    let (verdict, out) = node.run(TO_UPLINK, &frame("172.18.0.3:40000 > 10.200.1.13:443 tcp S"));
    assert_eq!(verdict, Redirect);
    let seen = describe(&out);
    let (client, rest) = seen.split_once(" > ").expect("a description");
    assert!(client.starts_with("10.200.1.13:"), "the node takes nothing from itself: {seen}");
    assert_eq!(rest, "172.18.0.3:6443 tcp S");
    let answer = format!("172.18.0.3:6443 > {client} tcp SA");
    tell(
        &mut node,
        "own host network",
        &[(TO_UPLINK, &answer, Redirect, "10.200.1.13:443 > 172.18.0.3:40000 tcp SA")],
    );
    node.configure(ConfigFlags::NATIVE_ROUTING.with(ConfigFlags::LOOPBACK));
    tell(
        &mut node,
        "unless it was asked to",
        &[
            (
                TO_UPLINK,
                "172.18.0.3:40001 > 10.200.1.13:443 tcp S",
                Redirect,
                "172.18.0.3:40001 > 172.18.0.3:6443 tcp S",
            ),
            (
                TO_UPLINK,
                "172.18.0.3:6443 > 172.18.0.3:40001 tcp SA",
                Redirect,
                "10.200.1.13:443 > 172.18.0.3:40001 tcp SA",
            ),
        ],
    );
}

#[test]
fn a_host_reaches_its_own_node_port() {
    let Some(mut node) = reference() else { return };
    node.configure(ConfigFlags::NATIVE_ROUTING.with(ConfigFlags::LOOPBACK));
    node.service(20, ("0.0.0.0", 30_080, TCP), &[("10.10.3.6", 8080)]);
    tell(
        &mut node,
        "through the hook on the loopback device",
        &[
            (
                TO_UPLINK,
                "172.18.0.3:40000 > 172.18.0.3:30080 tcp S",
                Redirect,
                "172.18.0.3:40000 > 10.10.3.6:8080 tcp S ttl=63",
            ),
            (
                FROM_POD,
                "10.10.3.6:8080 > 172.18.0.3:40000 tcp SA",
                Redirect,
                "172.18.0.3:30080 > 172.18.0.3:40000 tcp SA",
            ),
            (FROM_UPLINK, "172.18.0.3:40000 > 172.18.0.3:22 tcp S", Drop, ""),
        ],
    );
    assert_eq!(node.count(Outcome::DroppedMartian), 1);
}

//! Datagram flows end with what their client dialled, and move with what serves it.

use crate::{
    SAME, Step, TCP, UDP,
    node::{
        FROM_POD, FROM_UPLINK, Node, TO_UPLINK,
        Verdict::{Next, Redirect},
    },
    reference, tell,
};
use datapath_common::Outcome;
use std::{thread, time::Duration};

/// Has time pass, so that a flow asks again whether its frontend is still there.
fn tick() {
    thread::sleep(Duration::from_millis(20));
}

const NODE_PORT: (&str, u16, datapath_common::Protocol) = ("0.0.0.0", 30_053, UDP);
const EXTERNAL: (&str, u16, datapath_common::Protocol) = ("203.0.113.7", 53, UDP);

/// A service with a node port and an external address besides its cluster address.
fn with_frontends() -> Option<Node> {
    let mut node = reference()?;
    for frontend in [("10.200.1.20", 53, UDP), EXTERNAL, NODE_PORT] {
        node.service(20, frontend, &[("10.10.3.6", 5353)]);
    }
    node.remove_any_port("203.0.113.7");
    Some(node)
}

#[test]
fn a_flow_ends_with_its_frontend_though_the_backend_still_serves() {
    let port = "172.18.0.100:4000 > 172.18.0.3:30053 udp";
    let external = "172.18.0.100:4000 > 203.0.113.7:53 udp";
    let Some(mut node) = with_frontends() else { return };
    let open = |sent| (FROM_UPLINK, sent, Redirect, "");
    tell(&mut node, "open", &[open(port), open(external)]);
    node.remove_frontend(NODE_PORT);
    tick();
    tell(&mut node, "the node port is gone", &[(FROM_UPLINK, port, Next, SAME), open(external)]);
    node.remove_frontend(EXTERNAL);
    tick();
    tell(&mut node, "the external address is gone", &[(FROM_UPLINK, external, Next, SAME)]);
    assert_eq!(node.count(Outcome::FlowMoved), 2);
    assert!(node.flows().is_empty(), "neither half is left");
}

#[test]
fn a_flow_follows_its_frontend_to_another_service() {
    let Some(mut node) = with_frontends() else { return };
    let sent = "172.18.0.100:4000 > 172.18.0.3:30053 udp";
    tell(&mut node, "open", &[(FROM_UPLINK, sent, Redirect, "")]);
    node.service(21, NODE_PORT, &[("10.10.3.5", 5353)]);
    tick();
    let (_, out) = node.run(FROM_UPLINK, &crate::frame::frame(sent));
    assert!(crate::frame::describe(&out).contains("> 10.10.3.5:5353 udp"));
}

#[test]
fn a_flow_to_a_deleted_service_is_no_longer_translated() {
    let Some(mut node) = with_frontends() else { return };
    let steps: [Step<'_>; 3] = [
        (FROM_UPLINK, "172.18.0.100:4000 > 172.18.0.3:30053 udp", Redirect, ""),
        (FROM_POD, "10.10.3.5:4000 > 203.0.113.7:53 udp", Redirect, ""),
        (TO_UPLINK, "172.18.0.3:4000 > 203.0.113.7:53 udp", Redirect, ""),
    ];
    tell(&mut node, "open", &steps);
    for frontend in [("10.200.1.20", 53, UDP), EXTERNAL, NODE_PORT] {
        node.remove_frontend(frontend);
    }
    node.remove_backend(2000);
    let after = steps.map(|(hook, sent, _, _)| (hook, sent, Next, SAME));
    tell(&mut node, "after", &after);
}

#[test]
fn a_connection_outlives_its_frontend_but_a_new_one_does_not_begin() {
    let Some(mut node) = reference() else { return };
    let node_port = ("0.0.0.0", 30_080, TCP);
    node.service(20, node_port, &[("10.10.3.6", 8080)]);
    let (first, more) = (
        "172.18.0.100:4000 > 172.18.0.3:30080 tcp S",
        "172.18.0.100:4000 > 172.18.0.3:30080 tcp A",
    );
    tell(
        &mut node,
        "open",
        &[(FROM_UPLINK, first, Redirect, ""), (FROM_UPLINK, more, Redirect, "")],
    );
    node.remove_frontend(node_port);
    tick();
    tell(
        &mut node,
        "closed",
        &[(FROM_UPLINK, more, Redirect, ""), (FROM_UPLINK, first, Next, SAME)],
    );
}

#[test]
fn a_flow_that_was_rejected_begins_when_an_endpoint_is_ready() {
    let Some(mut node) = reference() else { return };
    node.service(20, NODE_PORT, &[]);
    let sent = "172.18.0.100:12345 > 172.18.0.3:30053 udp";
    let rejected = "172.18.0.3 > 172.18.0.100 icmp 3/3 about 172.18.0.100:12345 > 172.18.0.3:30053";
    for _ in 0..3 {
        tell(&mut node, "nobody is ready", &[(FROM_UPLINK, sent, Redirect, rejected)]);
    }
    node.service(20, NODE_PORT, &[("10.10.3.6", 5353)]);
    let (_, out) = node.run(FROM_UPLINK, &crate::frame::frame(sent));
    assert!(crate::frame::describe(&out).contains("> 10.10.3.6:5353 udp"));
}

#[test]
fn a_plain_datagram_flow_gives_way_to_a_service() {
    let Some(mut node) = reference() else { return };
    let plain = "10.10.3.5:4000 > 10.10.1.7:5353 udp";
    tell(
        &mut node,
        "one port for a service and for its backend",
        &[
            (FROM_POD, "10.10.3.5:4000 > 10.200.1.12:53 udp", Redirect, ""),
            (FROM_POD, plain, Redirect, ""),
        ],
    );
    assert_eq!(node.flows().len(), 4, "the plain one evades");
    node.service(20, ("10.10.1.7", 5353, UDP), &[("10.10.3.6", 5353)]);
    tick();
    node.run(FROM_POD, &crate::frame::frame(plain));
    assert_eq!(node.count(Outcome::FlowMoved), 1);
}

#[test]
fn a_datagram_flow_leaves_a_dead_backend_and_a_stream_does_not() {
    let Some(mut node) = reference() else { return };
    tell(
        &mut node,
        "before",
        &[
            (
                FROM_POD,
                "10.10.3.5:40000 > 10.200.1.12:53 udp",
                Redirect,
                "10.10.3.5:40000 > 10.10.1.7:5353 udp ttl=63",
            ),
            (
                FROM_POD,
                "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
                Redirect,
                "10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
            ),
        ],
    );
    node.remove_backend(300);
    node.remove_backend(100);
    node.service(3, ("10.200.1.12", 53, UDP), &[]);
    node.service(1, ("10.200.1.10", 80, TCP), &[("10.10.3.6", 8080)]);
    node.remove_backend(100);
    node.put_backend(150, "10.10.3.6", 8080, TCP, 1);
    tell(
        &mut node,
        "after",
        &[
            (
                FROM_POD,
                "10.10.3.5:40000 > 10.200.1.12:53 udp",
                Redirect,
                "10.200.1.12 > 10.10.3.5 icmp 3/3 about 10.10.3.5:40000 > 10.200.1.12:53",
            ),
            (
                FROM_POD,
                "10.10.3.5:40000 > 10.200.1.10:80 tcp A",
                Redirect,
                "10.10.3.5:40000 > 10.10.1.7:8080 tcp A ttl=63",
            ),
        ],
    );
    node.service(3, ("10.200.1.12", 53, UDP), &[("10.10.3.6", 5353)]);
    tell(
        &mut node,
        "a new backend",
        &[(
            FROM_POD,
            "10.10.3.5:40000 > 10.200.1.12:53 udp",
            Redirect,
            "10.10.3.5:40000 > 10.10.3.6:5353 udp ttl=63",
        )],
    );
}

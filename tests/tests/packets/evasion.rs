//! No client gets around rules by the shape of its packets.

use crate::{
    SAME, TCP, UDP,
    frame::{self, describe, frame, frame_with},
    node::{
        FROM_POD, FROM_UPLINK, NODE, Node, TO_UPLINK,
        Verdict::{Drop, Next, Redirect},
    },
    reference, tell,
};
use datapath_common::{FrontendFlags, Outcome};

const VIP: &str = "203.0.113.7";

/// A load balancer address over TCP and UDP that only 192.0.2.0/24 may use, and a node port.
fn guarded() -> Option<Node> {
    let mut node = reference()?;
    for (service, protocol) in [(20, TCP), (21, UDP)] {
        let frontend = (VIP, 53, protocol);
        node.service(service, frontend, &[("10.10.3.6", 5353)]);
        node.change_frontend(frontend, |frontend| {
            frontend.flags = FrontendFlags::SOURCE_RANGES;
        });
        node.remove_any_port(VIP);
        node.source_range(service, "192.0.2.0", 24);
    }
    node.service(22, ("0.0.0.0", 30_053, UDP), &[("10.10.3.6", 5353)]);
    Some(node)
}

#[test]
fn only_the_allowed_sources_get_in() {
    let Some(mut node) = guarded() else { return };
    tell(
        &mut node,
        "source ranges",
        &[
            (FROM_UPLINK, "192.0.2.9:4000 > 203.0.113.7:53 tcp S", Redirect, ""),
            (FROM_UPLINK, "192.0.2.9:4000 > 203.0.113.7:53 udp", Redirect, ""),
            (FROM_UPLINK, "198.51.100.9:4000 > 203.0.113.7:53 tcp S", Drop, ""),
            (FROM_UPLINK, "198.51.100.9:4000 > 203.0.113.7:53 udp", Drop, ""),
        ],
    );
    assert_eq!(node.count(Outcome::DroppedSourceRange), 2);
}

#[test]
fn later_fragments_of_a_denied_datagram_are_denied() {
    let Some(mut node) = guarded() else { return };
    let whole = frame_with("198.51.100.9:4000 > 203.0.113.7:53 udp", &[7; 64]);
    let (first, later) = frame::fragments(&whole, 32);
    for fragment in [&first, &later, &later] {
        assert_eq!(node.run(FROM_UPLINK, fragment).0, Drop);
    }
    assert_eq!(node.count(Outcome::DroppedSourceRange), 3);
    assert!(node.flows().is_empty());
}

#[test]
fn a_first_fragment_without_ports_opens_nothing() {
    let Some(mut node) = guarded() else { return };
    // RFC 1858: the flags of the TCP header stand in the second fragment.
    let whole = frame("198.51.100.9:4000 > 203.0.113.7:53 tcp S");
    let (first, later) = frame::fragments(&whole, 8);
    for fragment in [&first, &later] {
        let (_, out) = node.run(FROM_UPLINK, fragment);
        assert_eq!(out[30..34], [203, 0, 113, 7], "nothing is translated");
    }
    assert!(node.flows().is_empty());
}

#[test]
fn ip_options_hide_no_ports() {
    let Some(mut node) = guarded() else { return };
    let denied = frame::with_options(&frame("198.51.100.9:4000 > 203.0.113.7:53 tcp S"));
    assert_eq!(node.run(FROM_UPLINK, &denied).0, Drop);
    assert_eq!(node.count(Outcome::DroppedSourceRange), 1);
    let allowed = frame::with_options(&frame("192.0.2.9:4000 > 203.0.113.7:53 tcp S"));
    let (verdict, out) = node.run(FROM_UPLINK, &allowed);
    assert_eq!(verdict, Redirect);
    assert_eq!(describe(&out), "192.0.2.9:4000 > 10.10.3.6:5353 tcp S ttl=63");
    let unserved = frame::with_options(&frame("172.18.0.100:4000 > 10.200.1.10:81 tcp S"));
    assert_eq!(node.run(FROM_UPLINK, &unserved).0, Drop, "no error about what has options");
}

#[test]
fn sources_that_cannot_be_on_the_wire_open_no_flow() {
    let Some(mut node) = guarded() else { return };
    node.source_range(21, "0.0.0.0", 1);
    node.source_range(21, "128.0.0.0", 1);
    let sources = [NODE, "127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"];
    for source in sources {
        for target in ["203.0.113.7:53", "172.18.0.3:30053"] {
            let (verdict, _) =
                node.run(FROM_UPLINK, &frame(&format!("{source}:4000 > {target} udp")));
            assert_eq!(verdict, Drop, "{source} > {target}");
        }
    }
    assert_eq!(node.count(Outcome::DroppedMartian), 2 * sources.len() as u64);
    assert!(node.flows().is_empty());
}

#[test]
fn nobody_on_the_wire_speaks_in_a_connection_of_the_node() {
    let Some(mut node) = reference() else { return };
    tell(
        &mut node,
        "a process of the node, and its double",
        &[
            (
                TO_UPLINK,
                "172.18.0.3:40000 > 10.200.1.10:80 tcp S",
                Redirect,
                "172.18.0.3:40000 > 10.10.1.7:8080 tcp S ttl=63",
            ),
            (FROM_UPLINK, "172.18.0.3:40000 > 10.200.1.10:80 tcp R", Drop, ""),
        ],
    );
    assert_eq!(node.count(Outcome::DroppedMartian), 1);
}

#[test]
fn loopback_addresses_serve_no_packets() {
    let Some(mut node) = reference() else { return };
    node.host_port(20, ("127.0.0.1", 54_323, TCP), ("10.10.3.5", 8080));
    node.host_port(21, ("::1", 54_323, TCP), ("fd00:10:10:3::5", 8080));
    for hook in [FROM_UPLINK, FROM_POD, TO_UPLINK] {
        tell(
            &mut node,
            "to a host port of the loopback addresses",
            &[
                (hook, "172.18.0.100:40000 > 127.0.0.1:54323 tcp S", Next, SAME),
                (hook, "[fc00:f853:ccd:e793::100]:40000 > [::1]:54323 tcp S", Next, SAME),
            ],
        );
    }
}

#[test]
fn ipv4_mapped_addresses_in_ipv6_are_no_ipv4() {
    let Some(mut node) = guarded() else { return };
    for text in [
        "[::ffff:192.0.2.9]:4000 > [::ffff:203.0.113.7]:53 udp",
        "[2001:db8::9]:4000 > [::ffff:203.0.113.7]:53 udp",
        "[::ffff:192.0.2.9]:4000 > [fd00:10:200:1::12]:53 udp",
    ] {
        tell(&mut node, "mapped", &[(FROM_UPLINK, text, Next, SAME)]);
    }
    assert!(node.flows().is_empty());
}

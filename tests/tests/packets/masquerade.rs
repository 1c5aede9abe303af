//! What pods send out of the cluster leaves with the node's address, and finds back.

use crate::{
    SAME, TCP,
    frame::{describe, fragments, frame, frame_with, icmp_error},
    node::{
        FROM_POD, FROM_UPLINK, NODE, NODE6, Node, TO_POD, TO_UPLINK,
        Verdict::{Next, Redirect},
        network,
    },
    reference, tell,
};
use datapath_common::{Addr, ConfigFlags, Outcome};

/// The reference node, whose uplink leads to everywhere, with masquerading on.
fn masquerading() -> Option<Node> {
    let mut node = reference()?;
    network("route add default dev lo\nroute add ::/0 dev lo\n");
    node.configure(
        ConfigFlags::NATIVE_ROUTING
            .with(ConfigFlags::LOCAL_DETECTOR)
            .with(ConfigFlags::MASQUERADE_OUTSIDE),
    );
    for (range, prefix) in [
        ("10.10.0.0", 16),
        ("fd00:10:10::", 48),
        ("172.18.0.5", 32),
        ("fc00:f853:ccd:e793::5", 128),
        ("192.0.2.0", 24),
        ("2001:db8:2::", 48),
    ] {
        node.non_masquerade(range, prefix);
    }
    Some(node)
}

/// A packet of a pod, what it becomes, the answer to that, and what becomes of the answer. `PORT` stands
/// for the source port, or the identifier, that the node has chosen.
const JOURNEYS: [[&str; 4]; 8] = [
    [
        "10.10.3.5:40000 > 203.0.113.9:443 tcp S",
        "172.18.0.3:PORT > 203.0.113.9:443 tcp S ttl=63",
        "203.0.113.9:443 > 172.18.0.3:PORT tcp SA",
        "203.0.113.9:443 > 10.10.3.5:40000 tcp SA ttl=63",
    ],
    [
        "10.10.3.5:40000 > 203.0.113.9:443 tcp A",
        "172.18.0.3:PORT > 203.0.113.9:443 tcp A ttl=63",
        "203.0.113.9:443 > 172.18.0.3:PORT tcp FA",
        "203.0.113.9:443 > 10.10.3.5:40000 tcp FA ttl=63",
    ],
    [
        "10.10.3.5:40000 > 203.0.113.9:53 udp",
        "172.18.0.3:PORT > 203.0.113.9:53 udp ttl=63",
        "203.0.113.9:53 > 172.18.0.3:PORT udp",
        "203.0.113.9:53 > 10.10.3.5:40000 udp ttl=63",
    ],
    [
        "10.10.3.5:40000 > 203.0.113.9:9999 sctp",
        "172.18.0.3:PORT > 203.0.113.9:9999 sctp ttl=63",
        "203.0.113.9:9999 > 172.18.0.3:PORT sctp",
        "203.0.113.9:9999 > 10.10.3.5:40000 sctp ttl=63",
    ],
    [
        "10.10.3.5 > 203.0.113.9 icmp 8/0 id=77",
        "172.18.0.3 > 203.0.113.9 icmp 8/0 id=PORT ttl=63",
        "203.0.113.9 > 172.18.0.3 icmp 0/0 id=PORT",
        "203.0.113.9 > 10.10.3.5 icmp 0/0 id=77 ttl=63",
    ],
    [
        "[fd00:10:10:3::5]:40000 > [2001:db8::9]:443 tcp S",
        "[fc00:f853:ccd:e793::3]:PORT > [2001:db8::9]:443 tcp S ttl=63",
        "[2001:db8::9]:443 > [fc00:f853:ccd:e793::3]:PORT tcp SA",
        "[2001:db8::9]:443 > [fd00:10:10:3::5]:40000 tcp SA ttl=63",
    ],
    [
        "[fd00:10:10:3::5]:40000 > [2001:db8::9]:53 udp",
        "[fc00:f853:ccd:e793::3]:PORT > [2001:db8::9]:53 udp ttl=63",
        "[2001:db8::9]:53 > [fc00:f853:ccd:e793::3]:PORT udp",
        "[2001:db8::9]:53 > [fd00:10:10:3::5]:40000 udp ttl=63",
    ],
    [
        "fd00:10:10:3::5 > 2001:db8::9 icmp 128/0 id=77",
        "fc00:f853:ccd:e793::3 > 2001:db8::9 icmp 128/0 id=PORT ttl=63",
        "2001:db8::9 > fc00:f853:ccd:e793::3 icmp 129/0 id=PORT",
        "2001:db8::9 > fd00:10:10:3::5 icmp 129/0 id=77 ttl=63",
    ],
];

/// Sends a pod's packet, which must leave as `expected`; returns what leaves, and the port in it.
fn leave(node: &mut Node, sent: &str, expected: &str) -> (Vec<u8>, String) {
    let (verdict, out) = node.run(FROM_POD, &frame(sent));
    let (before, after) = expected.split_once("PORT").expect("a port");
    let text = describe(&out);
    let port = text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    let port = port.unwrap_or_else(|| panic!("{sent} left as {text}, not {expected}"));
    assert_eq!(verdict, Redirect, "{sent}");
    let number: u16 = port.parse().expect("a number");
    assert!((61_000..=65_535).contains(&number), "{text}: one of the node's own ports");
    (out, port.to_owned())
}

#[test]
fn pods_reach_the_outside_under_the_address_of_their_node() {
    let Some(mut node) = masquerading() else { return };
    for [sent, expected, answer, back] in JOURNEYS {
        for _ in 0..2 {
            let (_, port) = leave(&mut node, sent, expected);
            let (verdict, out) = node.run(FROM_UPLINK, &frame(&answer.replace("PORT", &port)));
            assert_eq!((verdict, describe(&out).as_str()), (Redirect, back), "{answer}");
        }
    }
    // A connection that was there before counts once, with all of its packets.
    assert_eq!(node.count(Outcome::Masqueraded), JOURNEYS.len() as u64 - 1);
}

#[test]
fn answers_go_straight_to_the_pod_also_where_its_routing_is_not_ours() {
    let Some(mut node) = masquerading() else { return };
    node.configure(ConfigFlags::LOCAL_DETECTOR.with(ConfigFlags::MASQUERADE_OUTSIDE));
    for [sent, expected, answer, back] in JOURNEYS {
        let (_, port) = leave(&mut node, sent, expected);
        let (verdict, out) = node.run(FROM_UPLINK, &frame(&answer.replace("PORT", &port)));
        assert_eq!((verdict, describe(&out).as_str()), (Redirect, back), "{answer}");
    }
}

#[test]
fn two_pods_with_one_port_are_told_apart() {
    let Some(mut node) = masquerading() else { return };
    let ports = ["10.10.3.5", "10.10.3.6"].map(|pod| {
        let sent = format!("{pod}:40000 > 203.0.113.9:53 udp");
        leave(&mut node, &sent, "172.18.0.3:PORT > 203.0.113.9:53 udp ttl=63").1
    });
    for (pod, port) in ["10.10.3.5", "10.10.3.6"].iter().zip(ports) {
        let answer = format!("203.0.113.9:53 > 172.18.0.3:{port} udp");
        let back = format!("203.0.113.9:53 > {pod}:40000 udp ttl=63");
        tell(&mut node, pod, &[(FROM_UPLINK, &answer, Redirect, &back)]);
    }
}

#[test]
fn a_backend_outside_sees_the_node_too() {
    let Some(mut node) = masquerading() else { return };
    node.service(20, ("10.200.1.20", 80, TCP), &[("203.0.113.9", 8443)]);
    let (_, port) = leave(
        &mut node,
        "10.10.3.5:40000 > 10.200.1.20:80 tcp S",
        "172.18.0.3:PORT > 203.0.113.9:8443 tcp S ttl=63",
    );
    let answer = format!("203.0.113.9:8443 > 172.18.0.3:{port} tcp SA");
    let back = "10.200.1.20:80 > 10.10.3.5:40000 tcp SA ttl=63";
    tell(&mut node, "and answers to it", &[(FROM_UPLINK, &answer, Redirect, back)]);
}

#[test]
fn whom_the_node_knows_sees_the_pod() {
    let Some(mut node) = masquerading() else { return };
    node.service(20, ("203.0.113.7", 80, TCP), &[("10.10.3.6", 8080)]);
    for (hook, sent) in [
        (FROM_POD, "10.10.3.5:40000 > 172.18.0.3:22 tcp S"),
        (FROM_POD, "10.10.3.5:40000 > 172.18.0.5:22 tcp S"),
        (FROM_POD, "10.10.3.5 > 172.18.0.5 icmp 8/0 id=77"),
        (FROM_POD, "[fd00:10:10:3::5]:40000 > [fc00:f853:ccd:e793::5]:22 tcp S"),
        (FROM_POD, "10.10.3.5:40000 > 192.0.2.9:443 tcp S"),
        (FROM_POD, "[fd00:10:10:3::5]:40000 > [2001:db8:2::9]:443 udp"),
        // Nobody's, and what only looks like an answer.
        (FROM_POD, "10.10.3.5:40000 > 224.0.0.251:5353 udp"),
        (FROM_POD, "[fd00:10:10:3::5]:40000 > [ff02::fb]:5353 udp"),
        (FROM_POD, "10.10.3.5:40000 > 203.0.113.9:443 tcp A"),
        (FROM_POD, "10.10.3.5:40000 > 203.0.113.9:443 tcp SA"),
        (FROM_POD, "10.10.3.5 > 203.0.113.9 icmp 0/0 id=77"),
        (FROM_POD, "10.10.3.5 > 203.0.113.9 icmp 42/0"),
        // Not from a pod of this node, or not where pods are met.
        (FROM_POD, "10.10.3.99:40000 > 203.0.113.9:443 tcp S"),
        (FROM_UPLINK, "10.10.1.7:40000 > 203.0.113.9:443 tcp S"),
        (TO_UPLINK, "172.18.0.3:40000 > 203.0.113.9:443 tcp S"),
        (TO_UPLINK, "172.18.0.3 > 203.0.113.9 icmp 8/0 id=77"),
    ] {
        tell(&mut node, "", &[(hook, sent, Next, SAME)]);
    }
    for (sent, expected) in [
        ("10.10.3.5:40000 > 10.10.1.7:80 tcp S", "10.10.3.5:40000 > 10.10.1.7:80 tcp S ttl=63"),
        ("10.10.3.5:40000 > 203.0.113.7:80 tcp S", "10.10.3.5:40000 > 10.10.3.6:8080 tcp S ttl=63"),
        (
            "10.10.3.5:40000 > 203.0.113.7:81 tcp S",
            "203.0.113.7 > 10.10.3.5 icmp 3/3 about 10.10.3.5:40000 > 203.0.113.7:81",
        ),
    ] {
        tell(&mut node, "", &[(FROM_POD, sent, Redirect, expected)]);
    }
    assert_eq!(node.count(Outcome::Masqueraded), 0);
}

#[test]
fn a_node_without_an_address_of_the_family_hides_nobody() {
    let Some(mut node) = masquerading() else { return };
    node.change_config(|config| config.node_v6 = Addr::UNSPECIFIED_V6);
    let sent = "[fd00:10:10:3::5]:40000 > [2001:db8::9]:443 tcp S";
    tell(&mut node, "no IPv6", &[(FROM_POD, sent, Next, SAME)]);
}

#[test]
fn who_comes_from_outside_gets_the_pods_own_answers() {
    let Some(mut node) = masquerading() else { return };
    tell(
        &mut node,
        "the stack has carried it to the pod",
        &[
            (FROM_UPLINK, "203.0.113.9:5000 > 10.10.3.5:53 udp", Next, SAME),
            (TO_POD, "203.0.113.9:5000 > 10.10.3.5:53 udp", Next, SAME),
            (FROM_POD, "10.10.3.5:53 > 203.0.113.9:5000 udp", Next, SAME),
            (TO_POD, "203.0.113.9:5000 > 10.10.3.5:80 tcp S", Next, SAME),
            (FROM_POD, "10.10.3.5:80 > 203.0.113.9:5000 tcp SA", Next, SAME),
            (TO_POD, "203.0.113.9 > 10.10.3.5 icmp 8/0 id=5", Next, SAME),
            (FROM_POD, "10.10.3.5 > 203.0.113.9 icmp 0/0 id=5", Next, SAME),
        ],
    );
}

#[test]
fn errors_are_translated_both_ways() {
    let Some(mut node) = masquerading() else { return };
    for (sent, expected, router, error, back) in [
        (
            "10.10.3.5:40000 > 203.0.113.9:33434 udp",
            "172.18.0.3:PORT > 203.0.113.9:33434 udp ttl=63",
            ("198.51.100.1", NODE),
            "11/0",
            "198.51.100.1 > 10.10.3.5 icmp 11/0 about 10.10.3.5:40000 > 203.0.113.9:33434 ttl=63",
        ),
        (
            "10.10.3.5 > 203.0.113.9 icmp 8/0 id=77",
            "172.18.0.3 > 203.0.113.9 icmp 8/0 id=PORT ttl=63",
            ("198.51.100.1", NODE),
            "11/0",
            "198.51.100.1 > 10.10.3.5 icmp 11/0 about 10.10.3.5 > 203.0.113.9 icmp 8/0 id=77 ttl=63",
        ),
        (
            "[fd00:10:10:3::5]:40000 > [2001:db8::9]:33434 udp",
            "[fc00:f853:ccd:e793::3]:PORT > [2001:db8::9]:33434 udp ttl=63",
            ("2001:db8:1::1", NODE6),
            "3/0",
            "2001:db8:1::1 > fd00:10:10:3::5 icmp 3/0 about [fd00:10:10:3::5]:40000 > [2001:db8::9]:33434 ttl=63",
        ),
        (
            "fd00:10:10:3::5 > 2001:db8::9 icmp 128/0 id=77",
            "fc00:f853:ccd:e793::3 > 2001:db8::9 icmp 128/0 id=PORT ttl=63",
            ("2001:db8:1::1", NODE6),
            "1/0",
            "2001:db8:1::1 > fd00:10:10:3::5 icmp 1/0 about fd00:10:10:3::5 > 2001:db8::9 icmp 128/0 id=77 ttl=63",
        ),
    ] {
        let (out, _) = leave(&mut node, sent, expected);
        let (verdict, out) = node.run(FROM_UPLINK, &icmp_error(router.0, router.1, error, &out));
        assert_eq!((verdict, describe(&out).as_str()), (Redirect, back));
    }
    // The pod's socket is closed when the answer comes.
    let sent = "10.10.3.5:40000 > 203.0.113.9:53 udp";
    let (_, port) = leave(&mut node, sent, "172.18.0.3:PORT > 203.0.113.9:53 udp ttl=63");
    let answer = frame(&format!("203.0.113.9:53 > 172.18.0.3:{port} udp"));
    let (_, answer) = node.run(FROM_UPLINK, &answer);
    let (verdict, out) =
        node.run(FROM_POD, &icmp_error("10.10.3.5", "203.0.113.9", "3/3", &answer));
    let expected = format!(
        "172.18.0.3 > 203.0.113.9 icmp 3/3 about 203.0.113.9:53 > 172.18.0.3:{port} ttl=63"
    );
    assert_eq!((verdict, describe(&out)), (Redirect, expected));
}

#[test]
fn all_fragments_leave_alike() {
    let Some(mut node) = masquerading() else { return };
    for sent in ["10.10.3.5:40000 > 203.0.113.9:53 udp", "10.10.3.5 > 203.0.113.9 icmp 8/0 id=77"] {
        let (first, later) = fragments(&frame_with(sent, &[7; 64]), 32);
        for fragment in [first, later] {
            let (verdict, out) = node.run(FROM_POD, &fragment);
            assert_eq!((verdict, &out[26..30]), (Redirect, &[172, 18, 0, 3][..]), "{sent}");
        }
    }
}

#[test]
fn a_packet_that_dies_here_is_left_to_the_stack() {
    let Some(mut node) = masquerading() else { return };
    let sent = "10.10.3.5:40000 > 203.0.113.9:33434 udp";
    let mut dying = frame(sent);
    dying[22] = 1;
    let (mut ip, _) = etherparse::Ipv4Header::from_slice(&dying[14..]).expect("a header");
    ip.header_checksum = ip.calc_header_checksum();
    dying[14..34].copy_from_slice(&ip.to_bytes());
    assert_eq!(node.run(FROM_POD, &dying), (Next, dying.clone()), "before there is a flow");
    leave(&mut node, sent, "172.18.0.3:PORT > 203.0.113.9:33434 udp ttl=63");
    assert_eq!(node.run(FROM_POD, &dying), (Next, dying.clone()), "and when there is one");
}

/// A process of the node that uses the identifier that a pod's echo was given.
#[test]
fn the_nodes_own_echo_gets_another_identifier() {
    let Some(mut node) = masquerading() else { return };
    let (_, id) = leave(
        &mut node,
        "10.10.3.5 > 203.0.113.9 icmp 8/0 id=77",
        "172.18.0.3 > 203.0.113.9 icmp 8/0 id=PORT ttl=63",
    );
    let own = format!("172.18.0.3 > 203.0.113.9 icmp 8/0 id={id}");
    let (verdict, out) = node.run(TO_UPLINK, &frame(&own));
    assert_eq!(verdict, Next);
    let text = describe(&out);
    assert_ne!(text, own);
    let answer =
        text.replace("172.18.0.3 > 203.0.113.9 icmp 8/0", "203.0.113.9 > 172.18.0.3 icmp 0/0");
    let back = format!("203.0.113.9 > 172.18.0.3 icmp 0/0 id={id}");
    tell(&mut node, "its answer", &[(FROM_UPLINK, &answer, Next, &back)]);
}

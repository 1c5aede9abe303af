//! Connections with pods of this node that are gone.

use crate::{
    SAME,
    frame::{describe, frame},
    node::{
        FROM_POD, FROM_UPLINK, Node, TO_POD, TO_UPLINK,
        Verdict::{Drop, Next, Redirect},
        network,
    },
    reference, tell,
};
use datapath_common::{ConfigFlags, FlowFlags, Outcome, RouteKind};

/// The reference node as owner of its pods' ranges. Its routing table sends what it does not know out
/// of the uplink, knows a pod that the maps do not know yet, and forbids a range as Calico does.
fn owner() -> Option<Node> {
    let mut node = reference()?;
    node.route("10.10.3.0", 24, RouteKind::LOCAL, "0.0.0.0");
    node.route("fd00:10:10:3::", 64, RouteKind::LOCAL, "::");
    network(
        "link add pod0 type veth peer name peer0\n\
         link set pod0 up\n\
         link set peer0 up\n\
         route add default dev lo\n\
         route add ::/0 dev lo\n\
         route add 10.10.3.8 dev pod0\n\
         route add fd00:10:10:3::8/128 dev pod0\n\
         route add blackhole 10.10.3.64/26\n",
    );
    Some(node)
}

#[test]
fn a_segment_to_nobody_is_answered_with_a_reset() {
    let Some(mut node) = owner() else { return };
    for (title, hook, sent, answer) in [
        (
            "from another node's pod",
            FROM_UPLINK,
            "10.10.1.7:4000 > 10.10.3.9:80 tcp A",
            "10.10.3.9:80 > 10.10.1.7:4000 tcp R",
        ),
        (
            "from a pod of the node",
            FROM_POD,
            "10.10.3.5:4000 > 10.10.3.9:80 tcp FA",
            "10.10.3.9:80 > 10.10.3.5:4000 tcp R",
        ),
        (
            "from the node itself",
            TO_UPLINK,
            "172.18.0.3:4000 > 10.10.3.9:80 tcp A",
            "10.10.3.9:80 > 172.18.0.3:4000 tcp R",
        ),
        (
            "IPv6",
            FROM_UPLINK,
            "[fd00:10:10:1::7]:4000 > [fd00:10:10:3::9]:80 tcp A",
            "[fd00:10:10:3::9]:80 > [fd00:10:10:1::7]:4000 tcp R",
        ),
        (
            "where a route forbids the range",
            FROM_UPLINK,
            "10.10.1.7:4000 > 10.10.3.70:80 tcp A",
            "10.10.3.70:80 > 10.10.1.7:4000 tcp R",
        ),
    ] {
        tell(&mut node, title, &[(hook, sent, Redirect, answer)]);
    }
    assert_eq!(node.count(Outcome::ResetNoPod), 5);
}

#[test]
fn resets_carry_the_numbers_that_their_receiver_expects() {
    let Some(mut node) = owner() else { return };
    let number = |frame: &[u8], at: usize| {
        u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"))
    };
    for (flags, acknowledged, expected, sequence, acknowledgement) in [
        ("A", 7777, "R", 7777, 0),
        ("FA", 7777, "R", 7777, 0),
        // Eight bytes from 1000 on, and a FIN.
        ("F", 0, "RA", 0, 1009),
        ("", 0, "RA", 0, 1008),
    ] {
        for (client, pod, l4) in
            [("10.10.1.7:4000", "10.10.3.9:80", 34), ("[fd00::7]:4000", "[fd00:10:10:3::9]:80", 54)]
        {
            let mut sent = frame(&format!("{client} > {pod} tcp {flags}-"));
            sent[l4 + 8..l4 + 12].copy_from_slice(&u32::to_be_bytes(acknowledged));
            let (verdict, out) = node.run(FROM_UPLINK, &sent);
            assert_eq!(verdict, Redirect, "{flags}");
            assert_eq!(describe(&out), format!("{pod} > {client} tcp {expected}"));
            assert_eq!(number(&out, l4 + 4), sequence, "{flags}");
            assert_eq!(number(&out, l4 + 8), acknowledgement, "{flags}");
            assert_eq!(out.len(), l4 + 20, "nothing follows the header");
            assert_eq!([&out[..6], &out[6..12]], [&sent[6..12], &sent[..6]], "back to its sender");
        }
    }
}

#[test]
fn a_device_may_complete_the_checksum_of_a_reset() {
    let Some(mut node) = owner() else { return };
    let (_, out) = node.run(FROM_UPLINK, &frame("10.10.1.7:4000 > 10.10.3.9:80 tcp A"));
    // What a device does to a packet that left its checksum to it: the sum over the segment, the
    // field itself included, complemented, takes the field's place.
    let sum = etherparse::checksum::u32_16bit_word::add_slice(0, &out[34..54]);
    let completed = etherparse::checksum::u32_16bit_word::ones_complement(sum).to_ne_bytes();
    assert_eq!(completed, out[50..52]);
}

#[test]
fn everything_else_to_nobody_is_dropped() {
    let Some(mut node) = owner() else { return };
    let sent = [
        "10.10.1.7:4000 > 10.10.3.9:80 tcp S",
        "10.10.1.7:4000 > 10.10.3.9:80 tcp R",
        "10.10.1.7:4000 > 10.10.3.9:53 udp",
        "10.10.1.7:4000 > 10.10.3.9:53 sctp",
        "10.10.1.7 > 10.10.3.9 icmp 8/0",
        "[fd00:10:10:1::7]:4000 > [fd00:10:10:3::9]:80 tcp S",
    ];
    for sent in sent {
        tell(&mut node, sent, &[(FROM_UPLINK, sent, Drop, "")]);
    }
    assert_eq!(node.count(Outcome::DroppedNoPod), sent.len() as u64);
}

#[test]
fn a_pod_that_the_kernel_knows_first_is_not_hit() {
    let Some(mut node) = owner() else { return };
    for hook in [FROM_UPLINK, FROM_POD, TO_UPLINK] {
        tell(
            &mut node,
            "a route to its interface is there already",
            &[
                (hook, "10.10.1.7:4000 > 10.10.3.8:80 tcp A", Next, SAME),
                (hook, "10.10.1.7:4000 > 10.10.3.8:53 udp", Next, SAME),
                (hook, "[fd00:10:10:1::7]:4000 > [fd00:10:10:3::8]:80 tcp S", Next, SAME),
            ],
        );
    }
    tell(
        &mut node,
        "what the stack delivers to a pod has found it",
        &[(TO_POD, "10.10.1.7:4000 > 10.10.3.9:80 tcp A", Next, SAME)],
    );
}

/// Where a client's packets are seen, the client, and the service that it is connected to.
type Connection = (&'static str, &'static str, &'static str);

const CONNECTIONS: [Connection; 4] = [
    (FROM_POD, "10.10.3.5:4000", "10.200.1.11:80"),
    (FROM_UPLINK, "172.18.0.100:4000", "10.200.1.11:80"),
    (TO_UPLINK, "172.18.0.3:4000", "10.200.1.11:80"),
    (FROM_POD, "[fd00:10:10:3::5]:4000", "[fd00:10:200:1::11]:80"),
];

fn segment(flags: &str, (_, client, vip): Connection) -> String {
    format!("{client} > {vip} tcp {flags}")
}

fn reset_with_its_backend(node: &mut Node) {
    node.service(30, ("fd00:10:200:1::11", 80, crate::TCP), &[("fd00:10:10:3::6", 8080)]);
    for connection in CONNECTIONS {
        for flags in ["S", "A"] {
            node.run(connection.0, &frame(&segment(flags, connection)));
        }
    }
    for pod in ["10.10.3.6", "fd00:10:10:3::6"] {
        node.remove_address(pod);
    }
    for connection in CONNECTIONS {
        let (hook, client, vip) = connection;
        let answer = format!("{vip} > {client} tcp R");
        tell(node, "when it is gone", &[(hook, &segment("A", connection), Redirect, &answer)]);
    }
    assert_eq!(node.count(Outcome::ResetNoPod), CONNECTIONS.len() as u64);
    let forward = node.flows().into_iter().filter(|(_, flow)| flow.flags.has(FlowFlags::FORWARD));
    assert_eq!(forward.count(), CONNECTIONS.len());
}

#[test]
fn a_connection_to_a_service_is_reset_when_its_pod_is_gone() {
    let Some(mut node) = owner() else { return };
    reset_with_its_backend(&mut node);
    for connection in CONNECTIONS {
        tell(&mut node, "a new one", &[(connection.0, &segment("S", connection), Drop, "")]);
    }
}

#[test]
fn where_routing_is_not_ours_flows_remember_that_their_backend_was_a_pod_here() {
    let Some(mut node) = reference() else { return };
    network("route add default dev lo\nroute add ::/0 dev lo\n");
    node.configure(ConfigFlags::LOCAL_DETECTOR);
    reset_with_its_backend(&mut node);
    tell(
        &mut node,
        "what is no flow of ours is not our business",
        &[(FROM_UPLINK, "10.10.1.7:4000 > 10.10.3.9:80 tcp A", Next, SAME)],
    );
}

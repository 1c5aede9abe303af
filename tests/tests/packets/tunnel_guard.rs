//! What comes through a tunnel, or says so: what is let in, for whom, and what becomes of the rest. And
//! what is told to those who sent it.

use crate::{
    frame::{describe, fragments, frame},
    node::{
        FROM_POD, FROM_UPLINK, NODE, NODE6, Node, TO_UPLINK,
        Verdict::{Drop, Next, Redirect},
        network,
    },
    tunnel::{PEER, PEER6, POD_THERE, describe_both, reference, wrap},
};
use datapath_common::{ConfigFlags, Outcome, RouteKind};
use etherparse::Ipv4Header;

/// Changes the IPv4 header that stands at `at` and mends its checksum.
fn changed(packet: &[u8], at: usize, change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (mut header, _) = Ipv4Header::from_slice(&packet[at..]).expect("a header");
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    [&packet[..at], &header.to_bytes(), &packet[at + 20..]].concat()
}

#[test]
fn only_nodes_may_speak_and_only_for_their_own_pods() {
    let Some(mut node) = reference() else { return };
    let good = frame("10.10.1.7:40000 > 10.10.3.5:80 tcp S");
    let good6 = frame("[fd00:10:10:1::7]:40000 > [fd00:10:10:3::5]:80 tcp S");
    let inner = |text: &str| wrap(PEER, NODE, 0, &frame(text));
    let nested = wrap(PEER, NODE, 0, &good);
    let nested6 = wrap(PEER6, NODE6, 0, &good6);
    let mut short = wrap(PEER, NODE, 0, &good);
    short[36..38].copy_from_slice(&1000_u16.to_be_bytes());
    let mut short6 = wrap(PEER, NODE, 0, &good6);
    short6[38..40].copy_from_slice(&1000_u16.to_be_bytes());
    let mut wrong_version = wrap(PEER, NODE, 0, &good);
    wrong_version[34] = 0x65;
    let mut no_header = wrap(PEER, NODE, 0, &good);
    no_header[34] = 0x44;
    let (first, later) = fragments(&wrap(PEER, NODE, 0, &good), 24);
    for (title, packet, outcome) in [
        ("an unknown sender", wrap("172.18.0.100", NODE, 0, &good), Outcome::DroppedUnknownPeer),
        ("one of IPv6", wrap("2001:db8::9", NODE6, 0, &good6), Outcome::DroppedUnknownPeer),
        ("a pod as the sender", wrap(POD_THERE, NODE, 0, &good), Outcome::DroppedUnknownPeer),
        ("this node as the sender", wrap(NODE, NODE, 0, &good), Outcome::DroppedUnknownPeer),
        (
            "a pod of another node",
            inner("10.10.2.7:40000 > 10.10.3.5:80 tcp S"),
            Outcome::DroppedSpoofed,
        ),
        (
            "the same in IPv6",
            inner("[fd00:10:10:2::7]:40000 > [fd00:10:10:3::5]:80 tcp S"),
            Outcome::DroppedSpoofed,
        ),
        (
            "a pod of this node",
            inner("10.10.3.6:40000 > 10.10.3.5:80 tcp S"),
            Outcome::DroppedSpoofed,
        ),
        (
            "this node itself",
            inner("172.18.0.3:40000 > 10.10.3.5:80 tcp S"),
            Outcome::DroppedSpoofed,
        ),
        (
            "a source outside the cluster",
            inner("1.1.1.1:40000 > 10.10.3.5:80 tcp S"),
            Outcome::DroppedSpoofed,
        ),
        ("a loopback source", inner("127.0.0.1:1 > 10.10.3.5:80 udp"), Outcome::DroppedSpoofed),
        ("nobody as the source", inner("0.0.0.0:1 > 10.10.3.5:80 udp"), Outcome::DroppedSpoofed),
        (
            "an answer of a Service",
            inner("10.200.1.10:80 > 10.10.3.5:40000 tcp SA"),
            Outcome::DroppedSpoofed,
        ),
        ("a tunnel in a tunnel", wrap(PEER, NODE, 0, &nested), Outcome::DroppedMalformed),
        ("one of IPv6 in IPv4", wrap(PEER6, NODE6, 0, &nested6), Outcome::DroppedMalformed),
        ("an inner length beyond the packet", short, Outcome::DroppedMalformed),
        ("the same in IPv6", short6, Outcome::DroppedMalformed),
        ("an inner header of the wrong version", wrong_version, Outcome::DroppedMalformed),
        ("an inner header that is too short", no_header, Outcome::DroppedMalformed),
        ("less than a header inside", wrap(PEER, NODE, 0, &good[..30]), Outcome::DroppedMalformed),
        ("the first fragment of an outer packet", first, Outcome::DroppedFragment),
        ("a later fragment of an outer packet", later, Outcome::DroppedFragment),
    ] {
        let before = node.count(outcome);
        assert_eq!(node.run(FROM_UPLINK, &packet).0, Drop, "{title}");
        assert_eq!(node.count(outcome), before + 1, "{title}");
    }
    assert_eq!(node.count(Outcome::Unwrapped), 0);
    // A pod may send what it likes to another pod.
    let between_pods = wrap(POD_THERE, "10.10.3.5", 0, &good);
    assert_eq!(node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &between_pods)).0, Redirect);
    // Without tunnels of ours all of it is the stack's.
    node.configure(ConfigFlags::NATIVE_ROUTING);
    let packet = wrap(PEER, NODE, 0, &good);
    assert_eq!(node.run(FROM_UPLINK, &packet), (Next, packet));
}

/// The outer header may carry options and any time to live: neither says anything about the inner packet.
#[test]
fn the_outer_header_may_be_unusual() {
    let Some(mut node) = reference() else { return };
    let inner = frame("10.10.1.7:40000 > 10.10.3.5:80 tcp S");
    let expected = "10.10.1.7:40000 > 10.10.3.5:80 tcp S ttl=63";
    let plain = wrap(PEER, NODE, 0, &inner);
    for (title, packet) in [
        ("options", crate::frame::with_options(&plain)),
        ("the last hop", changed(&plain, 14, |header| header.time_to_live = 1)),
        ("may be fragmented", changed(&plain, 14, |header| header.dont_fragment = false)),
    ] {
        let (verdict, out) = node.run(FROM_UPLINK, &packet);
        assert_eq!((verdict, describe(&out).as_str()), (Redirect, expected), "{title}");
    }
}

/// What is for nobody here goes on as what comes without a tunnel does, by the kernel's own rules; the
/// next node that it comes to through a tunnel does not take it from this one.
#[test]
fn what_is_for_somebody_else_is_the_stacks() {
    let Some(mut node) = reference() else { return };
    for inner in [
        "10.10.1.7:40000 > 10.10.2.7:80 tcp S",
        "10.10.1.7:40000 > 203.0.113.9:80 tcp S",
        "10.10.1.7:40000 > 172.18.0.4:80 tcp S",
        "[fd00:10:10:1::7]:40000 > [2001:db8::9]:80 udp",
    ] {
        let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &frame(inner)));
        assert_eq!((verdict, describe(&out).as_str()), (Next, inner));
    }
    // Not for this node's tunnels at all.
    let passing = wrap(PEER, "172.18.0.4", 0, &frame("10.10.1.7:40000 > 10.10.3.5:80 tcp S"));
    assert_eq!(node.run(FROM_UPLINK, &passing), (Next, passing.clone()));
}

#[test]
fn a_packet_that_dies_here_is_the_stacks_which_tells_its_sender() {
    let Some(mut node) = reference() else { return };
    let dying = |text: &str| changed(&frame(text), 14, |header| header.time_to_live = 1);
    let out_of_a_tunnel = dying("10.10.1.7:40000 > 10.10.3.5:80 tcp S");
    let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &out_of_a_tunnel));
    assert_eq!((verdict, describe(&out)), (Next, describe(&out_of_a_tunnel)));
    let into_a_tunnel = dying("10.10.3.5:40000 > 10.10.1.7:8080 tcp S");
    assert_eq!(node.run(FROM_POD, &into_a_tunnel), (Next, into_a_tunnel.clone()));
    // What the stack tells goes through the tunnel.
    let told = frame("172.18.0.3 > 10.10.1.7 icmp 11/0");
    let (verdict, out) = node.run(TO_UPLINK, &told);
    assert_eq!((verdict, out[23]), (Redirect, 4));
}

#[test]
fn the_sender_of_what_is_too_big_believes_whom_it_has_asked_where_it_has_no_gateway() {
    let Some(mut node) = reference() else { return };
    node.pod_without_gateway("10.10.3.7");
    let sent = "10.10.3.7:40000 > 10.10.1.7:8080 tcp A";
    let (verdict, out) = node.run(FROM_POD, &crate::frame::frame_with(sent, &[7; 1441]));
    let expected = "10.10.1.7 > 10.10.3.7 icmp 3/4 about 10.10.3.7:40000 > 10.10.1.7:8080";
    assert_eq!((verdict, describe(&out).as_str()), (Redirect, expected));
}

/// The reference node as owner of its pods' range; its routing table sends all else out.
fn owner() -> Option<Node> {
    let mut node = reference()?;
    node.route("10.10.3.0", 24, RouteKind::LOCAL, "0.0.0.0");
    node.route("fd00:10:10:3::", 64, RouteKind::LOCAL, "::");
    network("route add default dev lo\nroute add ::/0 dev lo\n");
    Some(node)
}

#[test]
fn who_asks_through_a_tunnel_is_told_through_it() {
    let Some(mut node) = owner() else { return };
    node.service(6, ("10.200.1.15", 80, crate::TCP), &[]);
    node.service(7, ("fd00:10:200:1::15", 80, crate::TCP), &[]);
    for ((src, dst), sent, expected) in [
        (
            (PEER, NODE),
            "10.10.1.7:4000 > 10.10.3.9:80 tcp A",
            "172.18.0.3 > 172.18.0.5 4 ttl=64 class=0 | 10.10.3.9:80 > 10.10.1.7:4000 tcp R",
        ),
        (
            (PEER, NODE),
            "[fd00:10:10:1::7]:4000 > [fd00:10:10:3::9]:80 tcp FA",
            "172.18.0.3 > 172.18.0.5 41 ttl=64 class=0 | [fd00:10:10:3::9]:80 > [fd00:10:10:1::7]:4000 tcp R",
        ),
        (
            (PEER6, NODE6),
            "10.10.2.7:4000 > 10.10.3.9:80 tcp A",
            "fc00:f853:ccd:e793::3 > fc00:f853:ccd:e793::4 4 ttl=64 class=0 | 10.10.3.9:80 > 10.10.2.7:4000 tcp R",
        ),
        (
            (PEER, NODE),
            "10.10.1.7:4000 > 10.200.1.15:80 tcp S",
            "172.18.0.3 > 172.18.0.5 4 ttl=64 class=0 | 10.200.1.15 > 10.10.1.7 icmp 3/3 about 10.10.1.7:4000 > 10.200.1.15:80",
        ),
        (
            (PEER, NODE),
            "[fd00:10:10:1::7]:4000 > [fd00:10:200:1::15]:80 tcp S",
            "172.18.0.3 > 172.18.0.5 41 ttl=64 class=0 | fd00:10:200:1::15 > fd00:10:10:1::7 icmp 1/4 about [fd00:10:10:1::7]:4000 > [fd00:10:200:1::15]:80",
        ),
    ] {
        let (verdict, out) = node.run(FROM_UPLINK, &wrap(src, dst, 0, &frame(sent)));
        assert_eq!((verdict, describe_both(&out).as_str()), (Redirect, expected), "{sent}");
    }
    // The other node itself is told as it is reached: straight.
    let sent = frame("172.18.0.5:4000 > 10.10.3.9:80 tcp A");
    let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &sent));
    let expected = "10.10.3.9:80 > 172.18.0.5:4000 tcp R";
    assert_eq!((verdict, describe(&out).as_str()), (Redirect, expected));
    assert_eq!(node.count(Outcome::ResetNoPod), 4);
}

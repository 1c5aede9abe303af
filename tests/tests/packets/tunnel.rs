//! IP in IP: what is wrapped and unwrapped, and what never gets out of a tunnel.

use crate::{
    frame::{describe, fragments, frame, frame_with},
    node::{
        FROM_POD, FROM_UPLINK, GATEWAY, GATEWAY6, NODE, NODE6, Node, TO_UPLINK,
        Verdict::{Drop, Next, Redirect},
    },
};
use datapath_common::{ConfigFlags, Outcome, Protocol, TunnelStats};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use std::net::IpAddr;

/// Another node, its pod ranges and pods in them, of both families; its tunnels are IPv4.
pub(crate) const PEER: &str = "172.18.0.5";
pub(crate) const POD_THERE: &str = "10.10.1.7";
/// A node whose tunnels are IPv6.
pub(crate) const PEER6: &str = "fc00:f853:ccd:e793::4";

pub(crate) fn reference() -> Option<Node> {
    let mut node = Node::load()?;
    node.configure(
        ConfigFlags::NATIVE_ROUTING.with(ConfigFlags::LOCAL_DETECTOR).with(ConfigFlags::TUNNELS),
    );
    for pod in ["10.10.3.5", "fd00:10:10:3::5"] {
        node.pod(pod);
    }
    node.host(NODE);
    node.host(NODE6);
    node.tunnel(PEER, &[("10.10.1.0", 24), ("fd00:10:10:1::", 64)]);
    node.tunnel(PEER6, &[("10.10.2.0", 24), ("fd00:10:10:2::", 64)]);
    node.local_clients("10.10.0.0", 16);
    node.service(1, ("10.200.1.10", 80, Protocol::TCP), &[(POD_THERE, 8080)]);
    node.service(2, ("10.200.1.12", 53, Protocol::UDP), &[("10.10.3.5", 5353)]);
    node.service(20, ("0.0.0.0", 30_080, Protocol::TCP), &[(POD_THERE, 8080)]);
    Some(node)
}

/// An IP packet (with its Ethernet header) in another one.
pub(crate) fn wrap(src: &str, dst: &str, class: u8, inner: &[u8]) -> Vec<u8> {
    let protocol = if inner[14] >> 4 == 4 { IpNumber::IPV4 } else { IpNumber::IPV6 };
    let ethernet = PacketBuilder::ethernet2([2; 6], [2; 6]);
    let mut out = Vec::new();
    match (src.parse().expect("an address"), dst.parse().expect("an address")) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut outer =
                Ipv4Header::new(inner.len() as u16 - 14, 63, protocol, src.octets(), dst.octets())
                    .expect("a header");
            outer.dscp = (class >> 2).try_into().expect("six bits");
            outer.ecn = (class & 3).try_into().expect("two bits");
            ethernet.ip(etherparse::IpHeaders::Ipv4(outer, etherparse::Ipv4Extensions::default()))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let outer = Ipv6Header {
                traffic_class: class,
                next_header: protocol,
                hop_limit: 63,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            ethernet.ip(etherparse::IpHeaders::Ipv6(outer, etherparse::Ipv6Extensions::default()))
        }
        mixed => panic!("families differ: {mixed:?}"),
    }
    .write(&mut out, protocol, &inner[14..])
    .expect("a frame is written");
    out
}

/// Both headers of a wrapped packet: `OUTER SOURCE > DESTINATION PROTOCOL ttl=TTL | INNER`.
pub(crate) fn describe_both(frame: &[u8]) -> String {
    let (outer, protocol, length) = if frame[14] >> 4 == 4 {
        let (ip, _) = Ipv4Header::from_slice(&frame[14..]).expect("a header");
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "outer checksum");
        assert_eq!(usize::from(ip.total_len), frame.len() - 14, "outer length");
        assert!(ip.dont_fragment, "the outer packet is never cut");
        let (src, dst) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
        let class = ip.dscp.value() << 2 | ip.ecn.value();
        (text(src, dst, ip.protocol, ip.time_to_live, class), ip.protocol, 20)
    } else {
        let (ip, _) = Ipv6Header::from_slice(&frame[14..]).expect("a header");
        assert_eq!(usize::from(ip.payload_length), frame.len() - 54, "outer length");
        let (src, dst) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
        (text(src, dst, ip.next_header, ip.hop_limit, ip.traffic_class), ip.next_header, 40)
    };
    let ethertype = if protocol == IpNumber::IPV4 { [8, 0] } else { [0x86, 0xdd] };
    let inner = [&frame[..12], &ethertype, &frame[14 + length..]].concat();
    format!("{outer} | {}", describe(&inner))
}

fn text(src: IpAddr, dst: IpAddr, protocol: IpNumber, ttl: u8, class: u8) -> String {
    format!("{src} > {dst} {} ttl={ttl} class={class}", protocol.0)
}

#[test]
fn pods_of_other_nodes_are_reached_through_tunnels() {
    let Some(mut node) = reference() else { return };
    for (hook, sent, expected) in [
        // A pod's packet passes two routers: this node and the other one.
        (
            FROM_POD,
            "10.10.3.5:40000 > 10.10.1.7:8080 tcp S",
            "172.18.0.3 > 172.18.0.5 4 ttl=63 class=0 | 10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
        ),
        (
            FROM_POD,
            "[fd00:10:10:3::5]:1 > [fd00:10:10:1::7]:2 udp",
            "172.18.0.3 > 172.18.0.5 41 ttl=63 class=0 | [fd00:10:10:3::5]:1 > [fd00:10:10:1::7]:2 udp ttl=63",
        ),
        (
            FROM_POD,
            "[fd00:10:10:3::5]:1 > [fd00:10:10:2::7]:2 udp",
            "fc00:f853:ccd:e793::3 > fc00:f853:ccd:e793::4 41 ttl=63 class=0 | [fd00:10:10:3::5]:1 > [fd00:10:10:2::7]:2 udp ttl=63",
        ),
        (
            FROM_POD,
            "10.10.3.5 > 10.10.2.7 icmp 8/0",
            "fc00:f853:ccd:e793::3 > fc00:f853:ccd:e793::4 4 ttl=63 class=0 | 10.10.3.5 > 10.10.2.7 icmp 8/0 ttl=63",
        ),
        // Behind a Service: translated first.
        (
            FROM_POD,
            "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
            "172.18.0.3 > 172.18.0.5 4 ttl=63 class=0 | 10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
        ),
        // What the stack sends is as old as the stack says.
        (
            TO_UPLINK,
            "172.18.0.3:40001 > 10.10.1.7:8080 tcp S",
            "172.18.0.3 > 172.18.0.5 4 ttl=64 class=0 | 172.18.0.3:40001 > 10.10.1.7:8080 tcp S",
        ),
        (
            TO_UPLINK,
            "172.18.0.3:40000 > 10.200.1.10:80 tcp S",
            "172.18.0.3 > 172.18.0.5 4 ttl=64 class=0 | 172.18.0.3:40000 > 10.10.1.7:8080 tcp S",
        ),
    ] {
        let (verdict, out) = node.run(hook, &frame(sent));
        assert_eq!((verdict, describe_both(&out).as_str()), (Redirect, expected), "{hook} {sent}");
    }
    for sent in ["172.18.0.3:40000 > 172.18.0.5:22 tcp S", "10.10.3.5:40000 > 172.18.0.5:22 tcp S"]
    {
        let sent = frame(sent);
        assert_eq!(node.run(TO_UPLINK, &sent), (Next, sent), "what goes to a node goes as it is");
    }
    let length = |sent| (frame(sent).len() - 14) as u64;
    let expected = TunnelStats {
        sent_packets: 2,
        sent_bytes: length("10.10.3.5 > 10.10.2.7 icmp 8/0")
            + length("[fd00:10:10:3::5]:1 > [fd00:10:10:2::7]:2 udp"),
        ..TunnelStats::default()
    };
    assert_eq!(node.tunnel_stats(PEER6), expected);
}

#[test]
fn what_comes_out_of_a_tunnel_goes_on_as_if_it_had_come_without() {
    let Some(mut node) = reference() else { return };
    let request = frame("10.10.3.5:40000 > 10.200.1.10:80 tcp S");
    assert_eq!(node.run(FROM_POD, &request).0, Redirect);
    for ((src, dst), inner, verdict, expected) in [
        (
            (PEER, NODE),
            "10.10.1.9:40000 > 10.10.3.5:80 tcp S",
            Redirect,
            "10.10.1.9:40000 > 10.10.3.5:80 tcp S ttl=63",
        ),
        (
            (PEER, NODE),
            "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
            Redirect,
            "10.200.1.10:80 > 10.10.3.5:40000 tcp SA ttl=63",
        ),
        (
            (PEER, NODE),
            "[fd00:10:10:1::7]:1 > [fd00:10:10:3::5]:2 udp",
            Redirect,
            "[fd00:10:10:1::7]:1 > [fd00:10:10:3::5]:2 udp ttl=63",
        ),
        (
            (PEER6, NODE6),
            "[fd00:10:10:2::7]:1 > [fd00:10:10:3::5]:2 udp",
            Redirect,
            "[fd00:10:10:2::7]:1 > [fd00:10:10:3::5]:2 udp ttl=63",
        ),
        (
            (PEER6, NODE6),
            "10.10.2.7 > 10.10.3.5 icmp 8/0",
            Redirect,
            "10.10.2.7 > 10.10.3.5 icmp 8/0 ttl=63",
        ),
        // The other node itself, and this node itself: the stack's matter.
        (
            (PEER, NODE),
            "172.18.0.5:1 > 10.10.3.5:80 tcp S",
            Next,
            "172.18.0.5:1 > 10.10.3.5:80 tcp S",
        ),
        (
            (PEER, NODE),
            "10.10.1.7:1 > 172.18.0.3:22 tcp S",
            Next,
            "10.10.1.7:1 > 172.18.0.3:22 tcp S",
        ),
    ] {
        let (actual, out) = node.run(FROM_UPLINK, &wrap(src, dst, 0, &frame(inner)));
        assert_eq!((actual, describe(&out).as_str()), (verdict, expected), "{inner}");
    }
    assert_eq!(node.count(Outcome::Unwrapped), 7);
}

#[test]
fn a_node_port_leads_through_a_tunnel_and_back() {
    let Some(mut node) = reference() else { return };
    let request = frame("172.18.0.100:40000 > 172.18.0.3:30080 tcp S");
    let (verdict, out) = node.run(FROM_UPLINK, &request);
    assert_eq!(verdict, Redirect);
    let (outer, inner) = (&out[..34], [&out[..14], &out[34..]].concat());
    assert_eq!(outer[23], 4, "wrapped");
    let seen = describe(&inner);
    let (client, rest) = seen.split_once(" > ").expect("a description");
    assert!(client.starts_with("172.18.0.3:"), "the node stands for the client: {seen}");
    assert_eq!(rest, "10.10.1.7:8080 tcp S ttl=63");
    // Loopback, where test runs take place, has no route to the client: what counts is the flow.
    let answer = frame(&format!("10.10.1.7:8080 > {client} tcp SA"));
    node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &answer));
    assert_eq!(node.count(Outcome::FlowTranslated), 1);
}

#[test]
fn inner_fragments_pass_each_for_itself() {
    let Some(mut node) = reference() else { return };
    let (first, later) = fragments(&frame("10.10.3.5:40000 > 10.10.1.7:53 udp"), 8);
    for fragment in [first, later] {
        let (verdict, out) = node.run(FROM_POD, &fragment);
        assert_eq!((verdict, out[23], out.len()), (Redirect, 4, fragment.len() + 20));
    }
    let (first, later) = fragments(&frame("10.10.1.7:53 > 10.10.3.5:40000 udp"), 8);
    for fragment in [first, later] {
        let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, 0, &fragment));
        assert_eq!((verdict, out.len()), (Redirect, fragment.len()));
    }
}

/// RFC 6040, figure 4; an unmarked inner packet that met congestion is lost.
#[test]
fn congestion_marks_survive_the_tunnel() {
    const DSCP: u8 = 46 << 2;
    let Some(mut node) = reference() else { return };
    for sent in ["10.10.1.7:1 > 10.10.3.5:2 udp", "[fd00:10:10:1::7]:1 > [fd00:10:10:3::5]:2 udp"] {
        for (inner, outer, expected) in [
            (0, 0, Some(0)),
            (0, 2, Some(0)),
            (0, 1, Some(0)),
            (0, 3, None),
            (2, 0, Some(2)),
            (2, 2, Some(2)),
            (2, 1, Some(1)),
            (2, 3, Some(3)),
            (1, 0, Some(1)),
            (1, 2, Some(1)),
            (1, 1, Some(1)),
            (1, 3, Some(3)),
            (3, 0, Some(3)),
            (3, 2, Some(3)),
            (3, 1, Some(3)),
            (3, 3, Some(3)),
        ] {
            let packet = classed(&frame(sent), DSCP | inner);
            let (verdict, out) = node.run(FROM_UPLINK, &wrap(PEER, NODE, outer, &packet));
            match expected {
                Some(mark) => {
                    assert_eq!(class(&out), DSCP | mark, "{inner} in {outer}");
                    assert!(describe(&out).ends_with("ttl=63"), "checksums hold");
                }
                None => assert_eq!(verdict, Drop),
            }
        }
        let (from, to) = sent.trim_end_matches(" udp").split_once(" > ").expect("two ends");
        let packet = classed(&frame(&format!("{to} > {from} udp")), DSCP | 2);
        let (_, out) = node.run(FROM_POD, &packet);
        let expected = format!("ttl=63 class={} |", DSCP | 2);
        assert!(describe_both(&out).contains(&expected), "both are copied outwards");
    }
    assert_eq!(node.count(Outcome::DroppedCongestion), 2);
}

fn class(frame: &[u8]) -> u8 {
    if frame[14] >> 4 == 4 { frame[15] } else { frame[14] << 4 | frame[15] >> 4 }
}

fn classed(frame: &[u8], class: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[14] >> 4 == 4 {
        frame[15] = class;
        let (mut ip, _) = Ipv4Header::from_slice(&frame[14..]).expect("a header");
        ip.header_checksum = ip.calc_header_checksum();
        frame[14..34].copy_from_slice(&ip.to_bytes());
    } else {
        frame[14] |= class >> 4;
        frame[15] |= class << 4;
    }
    frame
}

#[test]
fn the_sender_of_what_is_too_big_is_told_by_its_gateway() {
    let Some(mut node) = reference() else { return };
    let largest = |sent: &str, headers: usize| frame_with(sent, &vec![7; 1480 - headers]);
    let too_big = |sent: &str, headers: usize| frame_with(sent, &vec![7; 1481 - headers]);
    let v4 = "10.10.3.5:40000 > 10.10.1.7:8080 tcp A";
    let v6 = "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp A";
    let service = "10.10.3.5:40000 > 10.200.1.10:80 tcp S";
    for (hook, sent, headers, error) in [
        (
            FROM_POD,
            v4,
            40,
            format!("{GATEWAY} > 10.10.3.5 icmp 3/4 about 10.10.3.5:40000 > 10.10.1.7:8080"),
        ),
        (
            FROM_POD,
            v6,
            60,
            format!(
                "{GATEWAY6} > fd00:10:10:3::5 icmp 2/0 about [fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080"
            ),
        ),
        // It is told of the packet that it has sent, not of what became of it.
        (
            FROM_POD,
            service,
            40,
            format!("{GATEWAY} > 10.10.3.5 icmp 3/4 about 10.10.3.5:40000 > 10.200.1.10:80"),
        ),
        (
            TO_UPLINK,
            "172.18.0.3:40000 > 10.200.1.10:80 tcp A",
            40,
            "10.200.1.10 > 172.18.0.3 icmp 3/4 about 172.18.0.3:40000 > 10.200.1.10:80".to_owned(),
        ),
    ] {
        let (verdict, out) = node.run(hook, &too_big(sent, headers));
        assert_eq!((verdict, describe(&out)), (Redirect, error), "{sent}");
        let mtu = if out[14] >> 4 == 4 { &out[40..42] } else { &out[60..62] };
        assert_eq!(mtu, 1480_u16.to_be_bytes(), "{sent}");
    }
    assert_eq!(node.count(Outcome::RejectedTooBig), 4);
    let (verdict, out) = node.run(FROM_POD, &largest(v4, 40));
    assert_eq!((verdict, out.len()), (Redirect, 1514), "the largest that fits");
    // What may be cut is left to the stack, which cuts it and sends each part through the tunnel.
    let mut may_be_cut = too_big(v4, 40);
    may_be_cut[20] = 0;
    assert_eq!(node.run(FROM_POD, &may_be_cut).0, Next);
}

//! What XDP turns round at an uplink, and what it passes up for the tc program: in the end the same
//! must come of every packet as without it.

use crate::{
    Step,
    frame::{self, describe, frame, frame_with},
    node::{
        FROM_UPLINK, Node, UPLINK, UPLINK_LINES,
        Verdict::{Next, Pass, Redirect, Turned},
        XDP_UPLINK, network,
    },
    reference, tell,
};
use datapath_common::{Flow, FlowFlags, Outcome, Protocol, Tuple};

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;

/// The reference node with Services for clients from outside, and an uplink whose neighbours are known
/// but for 172.18.0.200. Flows have one source port to choose from.
fn uplink() -> Option<Node> {
    let mut node = reference()?;
    network(UPLINK_LINES);
    for (service, frontend, backend) in [
        (20, ("0.0.0.0", 30_080, TCP), ("10.10.1.7", 8080)),
        (21, ("0.0.0.0", 30_053, UDP), ("10.10.1.7", 5353)),
        (22, ("::", 30_080, TCP), ("fd00:10:10:1::7", 8080)),
        (23, ("::", 30_053, UDP), ("fd00:10:10:1::7", 5353)),
        (24, ("0.0.0.0", 30_081, TCP), ("10.10.3.6", 8080)),
        (25, ("0.0.0.0", 30_443, TCP), ("172.18.0.2", 6443)),
        (26, ("0.0.0.0", 30_132, Protocol::SCTP), ("10.10.1.7", 132)),
        (27, ("0.0.0.0", 30_082, TCP), ("10.10.4.7", 8080)),
        (28, ("203.0.113.10", 80, TCP), ("10.10.1.7", 8080)),
        (29, ("203.0.113.11", 80, TCP), ("172.18.0.200", 80)),
        (30, ("203.0.113.12", 80, TCP), ("10.10.1.7", 8080)),
    ] {
        node.service(service, frontend, &[backend]);
    }
    node.tunnel("172.18.0.4", &[("10.10.4.0", 24)]);
    node.change_frontend(("203.0.113.12", 80, TCP), |frontend| {
        frontend.flags = frontend.flags.with(datapath_common::FrontendFlags::SOURCE_RANGES);
    });
    node.source_range(30, "198.51.100.0", 24);
    only_port(&mut node, 61_000);
    Some(node)
}

fn only_port(node: &mut Node, port: u16) {
    node.change_config(|config| (config.port_min, config.port_max) = (port, port));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_only_passes_through_is_turned_round() {
    let stories: &[(&str, &[Step<'_>])] = &[
        (
            "a node port: there and back, and at any time by tc",
            &[
                (
                    XDP_UPLINK,
                    "192.0.2.9:40000 > 172.18.0.3:30080 tcp S",
                    Turned,
                    "172.18.0.3:61000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "10.10.1.7:8080 > 172.18.0.3:61000 tcp SA",
                    Turned,
                    "172.18.0.3:30080 > 192.0.2.9:40000 tcp SA ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "192.0.2.9:40000 > 172.18.0.3:30080 tcp A",
                    Redirect,
                    "172.18.0.3:61000 > 10.10.1.7:8080 tcp A ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:8080 > 172.18.0.3:61000 tcp A",
                    Redirect,
                    "172.18.0.3:30080 > 192.0.2.9:40000 tcp A ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "192.0.2.9:40000 > 172.18.0.3:30080 tcp A",
                    Turned,
                    "172.18.0.3:61000 > 10.10.1.7:8080 tcp A ttl=63",
                ),
            ],
        ),
        (
            "opened by tc",
            &[
                (
                    FROM_UPLINK,
                    "192.0.2.9:40000 > 172.18.0.3:30053 udp",
                    Redirect,
                    "172.18.0.3:61000 > 10.10.1.7:5353 udp ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "10.10.1.7:5353 > 172.18.0.3:61000 udp",
                    Turned,
                    "172.18.0.3:30053 > 192.0.2.9:40000 udp ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "192.0.2.9:40000 > 172.18.0.3:30053 udp",
                    Turned,
                    "172.18.0.3:61000 > 10.10.1.7:5353 udp ttl=63",
                ),
            ],
        ),
        (
            "a stream over IPv6",
            &[
                (
                    XDP_UPLINK,
                    "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30080 tcp S",
                    Turned,
                    "[fc00:f853:ccd:e793::3]:61000 > [fd00:10:10:1::7]:8080 tcp S ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "[fd00:10:10:1::7]:8080 > [fc00:f853:ccd:e793::3]:61000 tcp SA",
                    Turned,
                    "[fc00:f853:ccd:e793::3]:30080 > [2001:db8::9]:40000 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "datagrams over IPv6",
            &[
                (
                    XDP_UPLINK,
                    "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30053 udp",
                    Turned,
                    "[fc00:f853:ccd:e793::3]:61000 > [fd00:10:10:1::7]:5353 udp ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "[fd00:10:10:1::7]:5353 > [fc00:f853:ccd:e793::3]:61000 udp",
                    Turned,
                    "[fc00:f853:ccd:e793::3]:30053 > [2001:db8::9]:40000 udp ttl=63",
                ),
            ],
        ),
        (
            "an address of a load balancer, a client on this network",
            &[
                (
                    XDP_UPLINK,
                    "172.18.0.100:40000 > 203.0.113.10:80 tcp S",
                    Turned,
                    "172.18.0.3:61000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "10.10.1.7:8080 > 172.18.0.3:61000 tcp SA",
                    Turned,
                    "203.0.113.10:80 > 172.18.0.100:40000 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "a source range with the client in it",
            &[(
                XDP_UPLINK,
                "198.51.100.9:40000 > 203.0.113.12:80 tcp S",
                Turned,
                "172.18.0.3:61000 > 10.10.1.7:8080 tcp S ttl=63",
            )],
        ),
        (
            "a process of another node behind the port, a pod of another node before it",
            &[
                (
                    XDP_UPLINK,
                    "10.10.1.9:40000 > 172.18.0.3:30443 tcp S",
                    Turned,
                    "172.18.0.3:61000 > 172.18.0.2:6443 tcp S ttl=63",
                ),
                (
                    XDP_UPLINK,
                    "172.18.0.2:6443 > 172.18.0.3:61000 tcp SA",
                    Turned,
                    "172.18.0.3:30443 > 10.10.1.9:40000 tcp SA ttl=63",
                ),
            ],
        ),
    ];
    for (title, steps) in stories {
        let Some(mut node) = uplink() else { return };
        tell(&mut node, title, steps);
    }
}

#[test]
fn a_turned_frame_is_the_tc_programs_to_the_last_byte() {
    for text in [
        "192.0.2.9:40000 > 172.18.0.3:30080 tcp S",
        "192.0.2.9:40000 > 172.18.0.3:30053 udp",
        "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30080 tcp S",
        "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30053 udp",
    ] {
        let Some(mut node) = uplink() else { return };
        let mut input = frame(text);
        let (_, turned) = node.run(XDP_UPLINK, &input);
        let (_, by_tc) = node.run(FROM_UPLINK, &input);
        assert_eq!(turned[14..], by_tc[14..], "{text}");
        // To the other node, from the uplink.
        assert_eq!(turned[..12], [2, 0, 0, 0, 1, 5, 2, 0, 0, 0, 1, 3], "{text}");
        if text.ends_with("udp") && input[12] == 8 {
            input[14 + 20 + 6..14 + 20 + 8].fill(0);
            let (verdict, turned) = node.run(XDP_UPLINK, &input);
            let expected = "172.18.0.3:61000 > 10.10.1.7:5353 udp no-checksum ttl=63";
            assert_eq!((verdict, describe(&turned).as_str()), (Turned, expected));
        }
    }
}

/// Frames that are none of XDP's business, each of another client.
fn passed() -> Vec<(&'static str, Vec<u8>)> {
    let node_port = |client: u16| format!("192.0.2.9:{client} > 172.18.0.3:30080 tcp S");
    let mut dying = frame(&node_port(1));
    dying[14 + 8] = 1;
    let checksum = ipv4_checksum(&dying);
    dying[14 + 10..14 + 12].copy_from_slice(&checksum);
    let datagram = frame_with("192.0.2.9:2 > 172.18.0.3:30053 udp", &[7; 64]);
    let (first, later) = frame::fragments(&datagram, 32);
    let mut unfinished = frame(&node_port(3));
    let sum = pseudo_checksum(&unfinished);
    unfinished[14 + 20 + 16..14 + 20 + 18].copy_from_slice(&sum);
    let same = |title, text: &str| (title, frame(text));
    vec![
        ("at the end of its life", dying),
        ("a first fragment", first),
        ("a later fragment", later),
        ("a checksum that is left to the device", unfinished),
        ("with options", frame::with_options(&frame(&node_port(4)))),
        ("too big", frame_with("192.0.2.9:5 > 172.18.0.3:30053 udp", &[7; 1500])),
        same("a backend here", "192.0.2.9:6 > 172.18.0.3:30081 tcp S"),
        same("a backend behind a tunnel", "192.0.2.9:7 > 172.18.0.3:30082 tcp S"),
        same("no neighbour", "192.0.2.9:8 > 203.0.113.11:80 tcp S"),
        same("outside of the source range", "192.0.2.9:9 > 203.0.113.12:80 tcp S"),
        same("SCTP", "192.0.2.9:10 > 172.18.0.3:30132 sctp"),
        same("ICMP", "192.0.2.9 > 172.18.0.3 icmp 8/0"),
        same("no such port", "192.0.2.9:11 > 172.18.0.3:30090 tcp S"),
        same("no such port of a Service", "192.0.2.9:12 > 203.0.113.10:81 tcp S"),
        same("no backend", "192.0.2.9:13 > 10.200.1.15:80 tcp S"),
        same("an address of a Service that is not there", "192.0.2.9:14 > 10.200.1.99:80 tcp S"),
        same("this node's own source", "172.18.0.3:15 > 172.18.0.3:30080 tcp S"),
        same("a loopback source", "127.0.0.1:16 > 172.18.0.3:30080 tcp S"),
        same("a pod's packet to a pod", "10.10.1.7:17 > 10.10.3.5:8080 tcp S"),
        same("to a pod elsewhere", "192.0.2.9:18 > 10.10.1.7:8080 tcp S"),
        same("somebody else's", "192.0.2.9:19 > 198.51.100.9:80 tcp S"),
    ]
}

#[test]
fn everything_else_is_passed_up_as_it_came() {
    let Some(mut plain) = uplink() else { return };
    let Some(mut fast) = uplink() else { return };
    for (number, (title, input)) in (0..).zip(passed()) {
        for node in [&mut plain, &mut fast] {
            only_port(node, 61_000 + number);
        }
        assert_eq!(fast.run(XDP_UPLINK, &input), (Pass, input.clone()), "{title}");
        let (expected, actual) = (plain.run(FROM_UPLINK, &input), fast.run(FROM_UPLINK, &input));
        assert_eq!(actual, expected, "{title}");
        assert_eq!(flows(&mut fast), flows(&mut plain), "{title}");
    }
    for outcome in Outcome::ALL {
        // The packet that opened a flow below counts once more, above.
        if outcome != Outcome::FlowTranslated {
            assert_eq!(fast.count(outcome), plain.count(outcome), "{}", outcome.name());
        }
    }
}

/// All flows, without the device and the time of their packets.
fn flows(node: &mut Node) -> Vec<(Tuple, Flow)> {
    let mut flows = node.flows();
    for (_, flow) in &mut flows {
        (flow.last_seen, flow.device) = (0, 0);
    }
    flows.sort_by_key(|(tuple, _)| bytemuck::cast::<_, [u8; 40]>(*tuple));
    flows
}

#[test]
fn packets_of_a_flow_are_counted_whoever_sees_them() {
    let Some(mut node) = uplink() else { return };
    let client = |flags| frame(&format!("192.0.2.9:40000 > 172.18.0.3:30080 tcp {flags}"));
    let server = |flags| frame(&format!("10.10.1.7:8080 > 172.18.0.3:61000 tcp {flags}"));
    for (hook, packet) in [
        (XDP_UPLINK, client("S")),
        (FROM_UPLINK, server("SA")),
        (XDP_UPLINK, client("A")),
        (FROM_UPLINK, client("A")),
        (XDP_UPLINK, server("FA")),
        (XDP_UPLINK, client("RA")),
    ] {
        node.run(hook, &packet);
    }
    let length = client("S").len() as u64;
    let (acked, seen) = (FlowFlags::ACKED, FlowFlags::SEEN);
    for (_, flow) in node.flows() {
        let forward = flow.flags.has(FlowFlags::FORWARD);
        let (packets, end) = if forward { (4, FlowFlags::RST) } else { (2, FlowFlags::FIN) };
        assert_eq!((flow.packets, flow.bytes), (packets, packets * length), "{forward}");
        assert!(flow.flags.has(seen.with(acked).with(end)), "{forward}: {:?}", flow.flags);
        if forward {
            assert_eq!(flow.device, UPLINK);
        }
    }
    for (outcome, count) in [
        (Outcome::FlowCreated, 1),
        (Outcome::FlowTranslated, 5),
        (Outcome::ToNode, 6),
        (Outcome::TurnedRound, 4),
        (Outcome::Passed, 0),
    ] {
        assert_eq!(node.count(outcome), count, "{}", outcome.name());
    }
}

#[test]
fn a_flow_that_is_to_be_decided_anew_is_passed_up() {
    let Some(mut node) = uplink() else { return };
    let stream = "192.0.2.9:40000 > 172.18.0.3:30080 tcp";
    let datagram = "192.0.2.9:40001 > 172.18.0.3:30053 udp";
    let run = |node: &mut Node, text: &str| node.run(XDP_UPLINK, &frame(text)).0;
    assert_eq!(run(&mut node, &format!("{stream} S")), Turned);
    only_port(&mut node, 61_001);
    assert_eq!(run(&mut node, datagram), Turned);
    assert_eq!(run(&mut node, &format!("{stream} S")), Pass, "it may be another connection");
    for (tuple, mut flow) in node.flows() {
        // The kernel must have a chance to ask whether the neighbour is still there.
        flow.last_seen -= 6_000_000_000;
        node.put_flow(tuple, flow);
    }
    assert_eq!(run(&mut node, &format!("{stream} A")), Pass, "silent for long");
    node.run(FROM_UPLINK, &frame(&format!("{stream} A")));
    assert_eq!(run(&mut node, &format!("{stream} A")), Turned);
    node.run(FROM_UPLINK, &frame(datagram));
    node.remove_backend(2000);
    node.remove_backend(2100);
    assert_eq!(run(&mut node, &format!("{stream} A")), Turned, "streams stay");
    assert_eq!(run(&mut node, datagram), Pass, "datagrams move");
    assert_eq!(node.count(Outcome::FlowMoved), 0, "that is for the tc program to count");
}

#[test]
fn the_choice_stays_uniform_where_some_backends_are_here() {
    const CLIENTS: u16 = 1000;
    let Some(mut node) = uplink() else { return };
    let frontend = ("0.0.0.0", 30_090, TCP);
    node.service(40, frontend, &[("10.10.1.7", 80), ("10.10.3.6", 80)]);
    node.change_config(|config| (config.port_min, config.port_max) = (2_000, 60_000));
    let mut turned = 0_u16;
    for client in 1..=CLIENTS {
        let input = frame(&format!("192.0.2.9:{client} > 172.18.0.3:30090 tcp S"));
        if node.run(XDP_UPLINK, &input).0 == Turned {
            turned += 1;
        } else {
            let (_, out) = node.run(FROM_UPLINK, &input);
            assert_eq!(out[30..34], [10, 10, 3, 6], "what was chosen stays chosen");
        }
    }
    // Seven standard deviations.
    assert!(turned.abs_diff(CLIENTS / 2) < 111, "{turned}");
}

#[test]
fn session_affinity_is_shared() {
    let Some(mut node) = uplink() else { return };
    let frontend = ("0.0.0.0", 30_090, TCP);
    let backends = ["10.10.1.7", "10.10.1.8", "10.10.1.9"].map(|backend| (backend, 80));
    node.service(40, frontend, &backends);
    node.change_frontend(frontend, |frontend| frontend.affinity = 10_800);
    node.change_config(|config| (config.port_min, config.port_max) = (2_000, 60_000));
    let mut target = |hook, client: u16| {
        let (_, out) =
            node.run(hook, &frame(&format!("192.0.2.9:{client} > 172.18.0.3:30090 tcp S")));
        out[30..34].to_vec()
    };
    let first = target(XDP_UPLINK, 1);
    assert!((2..20).all(|client| target(XDP_UPLINK, client) == first));
    assert!((20..40).all(|client| target(FROM_UPLINK, client) == first));
}

#[test]
fn no_frame_however_short_or_broken_is_turned_round() {
    let Some(mut node) = uplink() else { return };
    for text in [
        "192.0.2.9:40000 > 172.18.0.3:30080 tcp A",
        "192.0.2.9:40000 > 172.18.0.3:30053 udp",
        "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30080 tcp A",
        "[2001:db8::9]:40000 > [fc00:f853:ccd:e793::3]:30053 udp",
    ] {
        let whole = frame(text);
        for length in 14..whole.len() {
            let cut = &whole[..length];
            if let Some(result) = node.try_run(XDP_UPLINK, cut) {
                assert_eq!(result, (Pass, cut.to_vec()), "{length} bytes of {text}");
            }
        }
        let (at, header) = if whole[14] >> 4 == 4 { (16, 20) } else { (18, 0) };
        let transport: u16 = if text.ends_with("udp") { 8 } else { 20 };
        for length in 0..transport {
            let mut stump = whole.clone();
            stump[at..at + 2].copy_from_slice(&(header + length).to_be_bytes());
            assert_eq!(node.run(XDP_UPLINK, &stump), (Pass, stump), "{length} bytes, {text}");
        }
        for version in [0x55, 0x44, 0x46, 0x05] {
            let mut broken = whole.clone();
            broken[14] = version;
            if version >> 4 != whole[14] >> 4 || version == 0x44 || version == 0x46 {
                assert_eq!(node.run(XDP_UPLINK, &broken), (Pass, broken), "{version:x} {text}");
            }
        }
    }
    assert_eq!(node.run(FROM_UPLINK, &frame("192.0.2.9:1 > 198.51.100.9:2 udp")).0, Next);
}

/// The checksum that the IPv4 header of a frame should have.
fn ipv4_checksum(frame: &[u8]) -> [u8; 2] {
    let (header, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).expect("a header");
    header.calc_header_checksum().to_be_bytes()
}

/// What the kernel writes in place of a checksum that the device is to make: the sum of addresses,
/// protocol and length.
fn pseudo_checksum(frame: &[u8]) -> [u8; 2] {
    let words = frame[26..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>() + u32::from(frame[23]) + (frame.len() - 34) as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)).to_be_bytes()[2..].try_into().expect("two bytes")
}

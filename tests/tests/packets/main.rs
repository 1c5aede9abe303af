//! Packet in, packet out: every kernel program, run by `BPF_PROG_TEST_RUN` on the running kernel.
//!
//! The node under test is `myk8s-worker` of the reference cluster with two pods of its own, pods of
//! another node, and Services whose one backend is on this node, on the other, or in the host's
//! network. Expectations are written for what comes out; frames as in [`frame`](mod@frame).

mod apply;
mod budget;
mod clash;
mod detector;
mod evasion;
mod frame;
mod gone;
mod host_ports;
mod maglev;
mod malformed;
mod masquerade;
mod node;
mod ports;
mod semantics;
mod stale;
mod tunnel;
mod tunnel_guard;
mod xdp;

use datapath_common::{ConfigFlags, FlowFlags, FrontendFlags, Outcome, Protocol, RouteKind};
use frame::{describe, frame, frame_with, icmp_error};
use node::{
    FROM_POD, FROM_UPLINK, NODE, NODE6, Node, TO_POD, TO_UPLINK,
    Verdict::{self, Drop, Next, Redirect},
};

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;

/// The reference node with its Services; `None` where programs cannot be loaded.
fn reference() -> Option<Node> {
    let mut node = Node::load()?;
    for pod in ["10.10.3.5", "10.10.3.6", "fd00:10:10:3::5", "fd00:10:10:3::6"] {
        node.pod(pod);
    }
    node.host(NODE);
    node.host(NODE6);
    node.route("10.10.1.0", 24, RouteKind::REMOTE, "172.18.0.5");
    node.route("fd00:10:10:1::", 64, RouteKind::REMOTE, "fc00:f853:ccd:e793::5");
    node.route("10.200.1.0", 24, RouteKind::SERVICE, "0.0.0.0");
    node.local_clients("10.10.0.0", 16);
    node.local_clients("fd00:10:10::", 48);
    node.service(1, ("10.200.1.10", 80, TCP), &[("10.10.1.7", 8080)]);
    node.service(2, ("10.200.1.11", 80, TCP), &[("10.10.3.6", 8080)]);
    node.service(3, ("10.200.1.12", 53, UDP), &[("10.10.1.7", 5353)]);
    node.service(4, ("10.200.1.13", 443, TCP), &[(NODE, 6443)]);
    node.service(5, ("10.200.1.14", 80, TCP), &[("10.10.3.5", 8080)]);
    node.service(6, ("10.200.1.15", 80, TCP), &[]);
    node.service(7, ("fd00:10:200:1::10", 80, TCP), &[("fd00:10:10:1::7", 8080)]);
    node.service(8, ("fd00:10:200:1::12", 53, UDP), &[("fd00:10:10:3::6", 5353)]);
    node.service(9, ("fd00:10:200:1::15", 80, TCP), &[]);
    node.service(10, ("10.200.1.16", 80, TCP), &[("10.10.1.7", 8080)]);
    node.service(11, ("10.200.1.17", 443, TCP), &[("172.18.0.2", 6443)]);
    Some(node)
}

/// One step of a story: at this hook, this frame in, this verdict and this frame out.
type Step<'a> = (&'a str, &'a str, Verdict, &'a str);

/// `=` for a frame that comes out as it went in.
const SAME: &str = "=";

fn tell(node: &mut Node, title: &str, steps: &[Step<'_>]) {
    for (index, (hook, sent, verdict, expected)) in steps.iter().enumerate() {
        let input = frame(sent);
        let (actual, output) = node.run(hook, &input);
        assert_eq!(actual, *verdict, "{title}, step {index}: {hook} {sent}");
        match *expected {
            "" => {}
            SAME => assert_eq!(describe(&output), describe(&input), "{title}, step {index}"),
            expected => assert_eq!(describe(&output), *expected, "{title}, step {index}"),
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn packets_find_their_way() {
    let stories: &[(&str, &[Step<'_>])] = &[
        (
            "pod to a ClusterIP with a backend on another node",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
                    Redirect,
                    "10.200.1.10:80 > 10.10.3.5:40000 tcp SA ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.10:80 tcp A",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp A ttl=63",
                ),
            ],
        ),
        (
            "the same in IPv6",
            &[
                (
                    FROM_POD,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp S",
                    Redirect,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "[fd00:10:10:1::7]:8080 > [fd00:10:10:3::5]:40000 tcp SA",
                    Redirect,
                    "[fd00:10:200:1::10]:80 > [fd00:10:10:3::5]:40000 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "pod to a ClusterIP with a backend on its own node",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.11:80 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.3.6:8080 tcp S ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.6:8080 > 10.10.3.5:40000 tcp SA",
                    Redirect,
                    "10.200.1.11:80 > 10.10.3.5:40000 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "datagrams, both families",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.12:53 udp",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:5353 udp ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:5353 > 10.10.3.5:40000 udp",
                    Redirect,
                    "10.200.1.12:53 > 10.10.3.5:40000 udp ttl=63",
                ),
                (
                    FROM_POD,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::12]:53 udp",
                    Redirect,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:10:3::6]:5353 udp ttl=63",
                ),
                (
                    FROM_POD,
                    "[fd00:10:10:3::6]:5353 > [fd00:10:10:3::5]:40000 udp",
                    Redirect,
                    "[fd00:10:200:1::12]:53 > [fd00:10:10:3::5]:40000 udp ttl=63",
                ),
            ],
        ),
        (
            "a backend in the host network of the client's node: the stack delivers, the pod's side translates back",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.13:443 tcp S",
                    Next,
                    "10.10.3.5:40000 > 172.18.0.3:6443 tcp S",
                ),
                (
                    TO_POD,
                    "172.18.0.3:6443 > 10.10.3.5:40000 tcp SA",
                    Next,
                    "10.200.1.13:443 > 10.10.3.5:40000 tcp SA",
                ),
            ],
        ),
        (
            "a backend in the host network of another node goes through the stack both ways",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.17:443 tcp S",
                    Next,
                    "10.10.3.5:40000 > 172.18.0.2:6443 tcp S",
                ),
                (FROM_UPLINK, "172.18.0.2:6443 > 10.10.3.5:40000 tcp SA", Next, SAME),
                (
                    TO_POD,
                    "172.18.0.2:6443 > 10.10.3.5:40000 tcp SA",
                    Next,
                    "10.200.1.17:443 > 10.10.3.5:40000 tcp SA",
                ),
            ],
        ),
        (
            "a host process and a pod of its node: the answer comes in by the uplink",
            &[
                (
                    TO_UPLINK,
                    "172.18.0.3:40000 > 10.200.1.11:80 tcp S",
                    Redirect,
                    "172.18.0.3:40000 > 10.10.3.6:8080 tcp S ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.6:8080 > 172.18.0.3:40000 tcp SA",
                    Redirect,
                    "10.200.1.11:80 > 172.18.0.3:40000 tcp SA",
                ),
            ],
        ),
        (
            "a host process and a pod of another node",
            &[
                (
                    TO_UPLINK,
                    "172.18.0.3:40000 > 10.200.1.10:80 tcp S",
                    Redirect,
                    "172.18.0.3:40000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:8080 > 172.18.0.3:40000 tcp SA",
                    Next,
                    "10.200.1.10:80 > 172.18.0.3:40000 tcp SA",
                ),
            ],
        ),
        (
            "pods talk to each other untouched",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.10.3.6:8080 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.3.6:8080 tcp S ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
                    Redirect,
                    "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA ttl=63",
                ),
                (
                    FROM_POD,
                    "[fd00:10:10:3::5]:1 > [fd00:10:10:1::7]:2 udp",
                    Redirect,
                    "[fd00:10:10:3::5]:1 > [fd00:10:10:1::7]:2 udp ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.5 > 10.10.3.6 icmp 8/0",
                    Redirect,
                    "10.10.3.5 > 10.10.3.6 icmp 8/0 ttl=63",
                ),
            ],
        ),
        (
            "what the stack translates between pods, it carries both ways",
            &[
                (FROM_POD, "10.10.3.5:40000 > 172.18.0.3:8080 tcp S", Next, SAME),
                (TO_POD, "10.10.3.5:40000 > 10.10.3.6:80 tcp S", Next, SAME),
                (FROM_POD, "10.10.3.6:80 > 10.10.3.5:40000 tcp SA", Next, SAME),
                (
                    FROM_POD,
                    "10.10.3.6:80 > 10.10.3.5:40001 tcp SA",
                    Redirect,
                    "10.10.3.6:80 > 10.10.3.5:40001 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "everything else is the stack's",
            &[
                (FROM_POD, "10.10.3.5:40000 > 1.1.1.1:443 tcp S", Next, SAME),
                (FROM_POD, "10.10.3.5:40000 > 172.18.0.3:22 tcp S", Next, SAME),
                (FROM_UPLINK, "172.18.0.100:40000 > 172.18.0.3:22 tcp S", Next, SAME),
                (FROM_UPLINK, "172.18.0.5:40000 > 10.10.3.5:80 tcp S", Next, SAME),
                (FROM_POD, "10.10.3.5:80 > 172.18.0.5:40000 tcp SA", Next, SAME),
                (TO_UPLINK, "172.18.0.3:40000 > 172.18.0.5:22 tcp S", Next, SAME),
                (TO_POD, "172.18.0.3:40000 > 10.10.3.5:80 tcp S", Next, SAME),
            ],
        ),
    ];
    let Some(mut node) = reference() else { return };
    for (title, steps) in stories {
        tell(&mut node, title, steps);
        for (tuple, _) in node.flows() {
            node.remove_flow(&tuple);
        }
    }
}

#[test]
fn without_routing_of_ours_the_stack_carries_and_we_translate() {
    let Some(mut node) = reference() else { return };
    node.configure(ConfigFlags::LOCAL_DETECTOR);
    tell(
        &mut node,
        "routing=none",
        &[
            (FROM_POD, "10.10.3.5:40000 > 10.10.3.6:8080 tcp S", Next, SAME),
            (
                FROM_POD,
                "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
                Next,
                "10.10.3.5:40000 > 10.10.1.7:8080 tcp S",
            ),
            (FROM_UPLINK, "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA", Next, SAME),
            (
                TO_POD,
                "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
                Next,
                "10.200.1.10:80 > 10.10.3.5:40000 tcp SA",
            ),
            (
                FROM_POD,
                "10.10.3.5:40001 > 10.200.1.11:80 tcp S",
                Next,
                "10.10.3.5:40001 > 10.10.3.6:8080 tcp S",
            ),
            (FROM_POD, "10.10.3.6:8080 > 10.10.3.5:40001 tcp SA", Next, SAME),
            (
                TO_POD,
                "10.10.3.6:8080 > 10.10.3.5:40001 tcp SA",
                Next,
                "10.200.1.11:80 > 10.10.3.5:40001 tcp SA",
            ),
        ],
    );
}

#[test]
fn what_no_endpoint_serves_is_refused() {
    let Some(mut node) = reference() else { return };
    let refusal = "icmp 3/3 about";
    for (hook, sent, expected) in [
        (FROM_POD, "10.10.3.5:40000 > 10.200.1.15:80 tcp S", format!("10.200.1.15 > 10.10.3.5 {refusal} 10.10.3.5:40000 > 10.200.1.15:80")),
        (FROM_POD, "10.10.3.5:40000 > 10.200.1.10:81 tcp S", format!("10.200.1.10 > 10.10.3.5 {refusal} 10.10.3.5:40000 > 10.200.1.10:81")),
        (FROM_POD, "10.10.3.5:40000 > 10.200.1.10:80 udp", format!("10.200.1.10 > 10.10.3.5 {refusal} 10.10.3.5:40000 > 10.200.1.10:80")),
        (FROM_UPLINK, "172.18.0.100:40000 > 10.200.1.15:80 tcp S", format!("10.200.1.15 > 172.18.0.100 {refusal} 172.18.0.100:40000 > 10.200.1.15:80")),
        (TO_UPLINK, "172.18.0.3:40000 > 10.200.1.15:80 tcp S", format!("10.200.1.15 > 172.18.0.3 {refusal} 172.18.0.3:40000 > 10.200.1.15:80")),
        (FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::15]:80 tcp S", "fd00:10:200:1::15 > fd00:10:10:3::5 icmp 1/4 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::15]:80".to_owned()),
        (FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:81 udp", "fd00:10:200:1::10 > fd00:10:10:3::5 icmp 1/4 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:81".to_owned()),
    ] {
        let (verdict, output) = node.run(hook, &frame(sent));
        assert_eq!((verdict, describe(&output)), (Redirect, expected), "{sent}");
    }
    assert_eq!(node.count(Outcome::RejectedNoEndpoint), 4);
    assert_eq!(node.count(Outcome::RejectedNoPort), 3);
}

#[test]
fn what_policy_forbids_is_dropped() {
    let Some(mut node) = reference() else { return };
    let frontend = ("10.200.1.15", 80, TCP);
    node.change_frontend(frontend, |frontend| frontend.flags = FrontendFlags::DROP_INSIDE);
    let from_outside = "172.18.0.100:40000 > 10.200.1.15:80 tcp S";
    let from_pod = "10.10.3.5:40000 > 10.200.1.15:80 tcp S";
    assert_eq!(node.run(FROM_POD, &frame(from_pod)).0, Drop, "no local endpoint");
    assert_eq!(node.run(FROM_UPLINK, &frame(from_outside)).0, Redirect, "outside is refused");
    assert_eq!(node.count(Outcome::DroppedNoLocalEndpoint), 1);

    node.change_frontend(("10.200.1.10", 80, TCP), |frontend| {
        frontend.flags = FrontendFlags::SOURCE_RANGES;
    });
    assert_eq!(node.run(FROM_POD, &frame("10.10.3.5:1 > 10.200.1.10:80 tcp S")).0, Drop);
    assert_eq!(node.count(Outcome::DroppedSourceRange), 1);

    let unallocated = "10.10.3.5:40000 > 10.200.1.99:80 tcp S";
    assert_eq!(node.run(FROM_POD, &frame(unallocated)).0, Drop);
    assert_eq!(node.count(Outcome::DroppedUnallocated), 1);
}

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

#[test]
fn clients_from_outside_are_masqueraded() {
    let Some(mut node) = reference() else { return };
    for (sent, backend, gateway) in [
        ("172.18.0.100:40000 > 10.200.1.11:80 tcp S", "10.10.3.6:8080 tcp S ttl=63", "10.10.3.1:"),
        ("172.18.0.100:40000 > 10.200.1.10:80 tcp S", "10.10.1.7:8080 tcp S ttl=63", "172.18.0.3:"),
    ] {
        let (verdict, out) = node.run(FROM_UPLINK, &frame(sent));
        assert_eq!(verdict, Redirect, "{sent}");
        let seen = describe(&out);
        let (client, rest) = seen.split_once(" > ").expect("a description");
        assert_eq!(rest, backend);
        let port: u16 = client.strip_prefix(gateway).expect(&seen).parse().expect("a port");
        assert!(port >= 61_000, "{port} is not of our range");
    }
}

#[test]
fn two_frontends_one_backend_and_one_client_port_do_not_collide() {
    first_flow_and_its_double("10.200.1.16:80");
}

#[test]
fn one_client_port_for_a_service_and_for_the_backend_behind_it() {
    first_flow_and_its_double("10.10.1.7:8080");
}

/// One client port is used for a service, and then for `dialled`, which leads to the same backend:
/// the second connection gets another source port, and each gets its own answers.
fn first_flow_and_its_double(dialled: &str) {
    let Some(mut node) = reference() else { return };
    tell(
        &mut node,
        "first",
        &[(
            FROM_POD,
            "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
            Redirect,
            "10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
        )],
    );
    let (_, out) = node.run(FROM_POD, &frame(&format!("10.10.3.5:40000 > {dialled} tcp S")));
    let seen = describe(&out);
    let (client, rest) = seen.split_once(" > ").expect("a description");
    assert_eq!(rest, "10.10.1.7:8080 tcp S ttl=63");
    assert!(client.starts_with("10.10.3.5:6"), "another port of the same client: {client}");
    let answer = format!("10.10.1.7:8080 > {client} tcp SA");
    let restored = format!("{dialled} > 10.10.3.5:40000 tcp SA ttl=63");
    tell(
        &mut node,
        "both answers",
        &[
            (
                FROM_UPLINK,
                "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
                Redirect,
                "10.200.1.10:80 > 10.10.3.5:40000 tcp SA ttl=63",
            ),
            (FROM_UPLINK, &answer, Redirect, &restored),
        ],
    );
}

#[test]
fn icmp_errors_speak_of_what_their_receiver_sent() {
    let Some(mut node) = reference() else { return };
    tell(
        &mut node,
        "open the flows",
        &[
            (FROM_POD, "10.10.3.5:40000 > 10.200.1.10:80 tcp S", Redirect, ""),
            (FROM_POD, "10.10.3.5:40000 > 10.200.1.12:53 udp", Redirect, ""),
            (FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp S", Redirect, ""),
            (FROM_UPLINK, "172.18.0.100:40000 > 10.200.1.11:80 tcp S", Redirect, ""),
        ],
    );
    for (title, hook, from, to, kind, quoted, verdict, expected) in [
        (
            "too big, from a router: through the stack",
            FROM_UPLINK,
            "172.18.0.9",
            "10.10.3.5",
            "3/4",
            "10.10.3.5:40000 > 10.10.1.7:8080 tcp A",
            Next,
            SAME,
        ),
        (
            "and translated at the pod",
            TO_POD,
            "172.18.0.9",
            "10.10.3.5",
            "3/4",
            "10.10.3.5:40000 > 10.10.1.7:8080 tcp A",
            Next,
            "172.18.0.9 > 10.10.3.5 icmp 3/4 about 10.10.3.5:40000 > 10.200.1.10:80",
        ),
        (
            "unreachable, from the backend itself",
            FROM_UPLINK,
            "10.10.1.7",
            "10.10.3.5",
            "3/3",
            "10.10.3.5:40000 > 10.10.1.7:5353 udp",
            Redirect,
            "10.200.1.12 > 10.10.3.5 icmp 3/3 about 10.10.3.5:40000 > 10.200.1.12:53 ttl=63",
        ),
        (
            "from the client, about an answer",
            FROM_POD,
            "10.10.3.5",
            "10.200.1.12",
            "3/3",
            "10.200.1.12:53 > 10.10.3.5:40000 udp",
            Redirect,
            "10.10.3.5 > 10.10.1.7 icmp 3/3 about 10.10.1.7:5353 > 10.10.3.5:40000 ttl=63",
        ),
        (
            "IPv6, from a router",
            TO_POD,
            "fc00:f853:ccd:e793::9",
            "fd00:10:10:3::5",
            "2/0",
            "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp A",
            Next,
            "fc00:f853:ccd:e793::9 > fd00:10:10:3::5 icmp 2/0 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80",
        ),
        (
            "IPv6, from the backend itself",
            FROM_UPLINK,
            "fd00:10:10:1::7",
            "fd00:10:10:3::5",
            "1/4",
            "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp A",
            Redirect,
            "fd00:10:200:1::10 > fd00:10:10:3::5 icmp 1/4 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 ttl=63",
        ),
        (
            "about no flow of ours",
            FROM_UPLINK,
            "10.10.1.7",
            "10.10.3.5",
            "3/3",
            "10.10.3.5:1 > 10.10.1.7:2 udp",
            Redirect,
            "10.10.1.7 > 10.10.3.5 icmp 3/3 about 10.10.3.5:1 > 10.10.1.7:2 ttl=63",
        ),
    ] {
        let input = icmp_error(from, to, kind, &frame(quoted));
        let (actual, output) = node.run(hook, &input);
        let expected = if expected == SAME { describe(&input) } else { expected.to_owned() };
        assert_eq!((actual, describe(&output)), (verdict, expected), "{title}");
    }
    assert_eq!(node.count(Outcome::IcmpTranslated), 5);
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

#[test]
fn either_half_of_a_flow_restores_the_other() {
    let Some(mut node) = reference() else { return };
    let there = "10.10.3.5:40000 > 10.200.1.10:80 tcp A";
    let back = "10.10.1.7:8080 > 10.10.3.5:40000 tcp A";
    node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.10:80 tcp S"));
    for (evicted, awake) in [(false, (FROM_POD, there)), (true, (FROM_UPLINK, back))] {
        let flows = node.flows();
        assert_eq!(flows.len(), 2);
        for (tuple, mut flow) in flows {
            if flow.flags.has(FlowFlags::FORWARD) == evicted {
                node.remove_flow(&tuple);
            } else {
                flow.last_seen = 0;
                node.put_flow(tuple, flow);
            }
        }
        assert_eq!(node.flows().len(), 1);
        node.run(awake.0, &frame(awake.1));
        tell(
            &mut node,
            "restored",
            &[
                (FROM_POD, there, Redirect, "10.10.3.5:40000 > 10.10.1.7:8080 tcp A ttl=63"),
                (FROM_UPLINK, back, Redirect, "10.200.1.10:80 > 10.10.3.5:40000 tcp A ttl=63"),
            ],
        );
    }
    assert_eq!(node.count(Outcome::FlowRestored), 2);
}

#[test]
fn the_sweep_takes_what_has_idled_and_nothing_else() {
    let Some(mut node) = reference() else { return };
    node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.10:80 tcp S"));
    node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.12:53 udp"));
    assert_eq!(node.sweep(), 0);
    let flows = node.flows();
    for (tuple, mut flow) in flows.iter().copied() {
        if tuple.protocol == UDP && flow.flags.has(FlowFlags::FORWARD) {
            flow.last_seen -= 31_000_000_000;
            node.put_flow(tuple, flow);
        }
    }
    assert_eq!(node.sweep(), 0, "one half was used a moment ago");
    for (tuple, mut flow) in flows {
        if tuple.protocol == UDP {
            flow.last_seen -= 31_000_000_000;
            node.put_flow(tuple, flow);
        }
    }
    assert_eq!(node.sweep(), 2);
    assert!(node.flows().iter().all(|(tuple, _)| tuple.protocol == TCP));
}

#[test]
fn affinity_holds_while_the_backend_is_in_the_list() {
    let Some(mut node) = reference() else { return };
    let frontend = ("10.200.1.20", 80, TCP);
    node.service(20, frontend, &[("10.10.1.7", 80), ("10.10.1.8", 80), ("10.10.3.6", 80)]);
    node.change_frontend(frontend, |frontend| frontend.affinity = 10_800);
    let target = |node: &mut Node, port: u16| {
        let (_, out) =
            node.run(FROM_POD, &frame(&format!("10.10.3.5:{port} > 10.200.1.20:80 tcp S")));
        describe(&out).split_once(" > ").expect("a description").1.to_owned()
    };
    let first = target(&mut node, 1000);
    assert!((1001..1040).all(|port| target(&mut node, port) == first), "one client, one backend");
    node.service(20, frontend, &[("10.10.1.9", 80), ("10.10.1.9", 80), ("10.10.1.9", 80)]);
    node.clear_members();
    node.change_frontend(frontend, |frontend| frontend.affinity = 10_800);
    assert_eq!(target(&mut node, 2000), "10.10.1.9:80 tcp S ttl=63");
}

#[test]
fn the_choice_is_uniform() {
    let Some(mut node) = reference() else { return };
    node.service(
        20,
        ("10.200.1.20", 80, TCP),
        &[("10.10.1.1", 1), ("10.10.1.2", 2), ("10.10.1.3", 3), ("10.10.1.4", 4)],
    );
    let mut chosen = [0_u32; 5];
    for port in 10_000..14_000 {
        let (_, out) =
            node.run(FROM_POD, &frame(&format!("10.10.3.5:{port} > 10.200.1.20:80 tcp S")));
        chosen[usize::from(out[14 + 20 + 3])] += 1;
    }
    // Four standard deviations of a binomial distribution with n = 4,000 and p = 1/4.
    assert!(chosen[1..].iter().all(|count| count.abs_diff(1000) < 110), "{chosen:?}");
}

#[test]
fn fragments_follow_the_first_one() {
    let Some(mut node) = reference() else { return };
    let whole = frame_with("10.10.3.5:40000 > 10.200.1.12:53 udp", &[7; 64]);
    let (first, later) = frame::fragments(&whole, 32);
    let (verdict, _) = node.run(FROM_POD, &later);
    assert_eq!(verdict, Drop, "no port can be known");
    assert_eq!(node.count(Outcome::DroppedFragment), 1);
    for fragment in [&first, &later] {
        let (verdict, out) = node.run(FROM_POD, fragment);
        assert_eq!(verdict, Redirect);
        assert_eq!(out[30..34], [10, 10, 1, 7]);
    }
    let whole = frame_with("10.10.1.7:5353 > 10.10.3.5:40000 udp", &[7; 64]);
    let (first, later) = frame::fragments(&whole, 32);
    for fragment in [&first, &later] {
        let (verdict, out) = node.run(FROM_UPLINK, fragment);
        assert_eq!(verdict, Redirect);
        assert_eq!(out[26..30], [10, 200, 1, 12]);
    }
}

#[test]
fn sctp_keeps_a_right_checksum() {
    let Some(mut node) = reference() else { return };
    node.service(20, ("10.200.1.20", 132, Protocol::SCTP), &[("10.10.1.7", 38_412)]);
    let (verdict, out) = node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.20:132 sctp"));
    assert_eq!(verdict, Redirect);
    assert_eq!(describe(&out), "10.10.3.5:40000 > 10.10.1.7:38412 sctp ttl=63");
    let (_, out) = node.run(FROM_UPLINK, &frame("10.10.1.7:38412 > 10.10.3.5:40000 sctp"));
    assert_eq!(describe(&out), "10.200.1.20:132 > 10.10.3.5:40000 sctp ttl=63");
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let Some(mut node) = reference() else { return };
    let mut bare = frame("10.10.3.5:40000 > 10.200.1.12:53 udp");
    bare[14 + 20 + 6..14 + 20 + 8].fill(0);
    let (_, out) = node.run(FROM_POD, &bare);
    assert_eq!(describe(&out), "10.10.3.5:40000 > 10.10.1.7:5353 udp no-checksum ttl=63");
}

#[test]
fn a_packet_at_the_end_of_its_life_is_the_stacks() {
    let Some(mut node) = reference() else { return };
    let mut dying = frame("10.10.3.5:40000 > 10.10.1.7:80 tcp S");
    dying[14 + 8] = 1;
    assert_eq!(node.run(FROM_POD, &dying), (Next, dying));
}

//! Packet in, packet out: every kernel program, run by `BPF_PROG_TEST_RUN` on the running kernel.
//!
//! The node under test is `myk8s-worker` of the reference cluster with two pods of its own, pods of
//! another node, and Services whose one backend is on this node, on the other, or in the host's
//! network. Expectations are written for what comes out; frames as in [`frame`](mod@frame).

mod apply;
mod budget;
mod choice;
mod clash;
mod detector;
mod dsr;
mod evasion;
mod flows;
mod forwarding;
mod frame;
mod gone;
mod hairpin;
mod host_ports;
mod icmp;
mod maglev;
mod malformed;
mod masquerade;
mod node;
mod ports;
mod refusal;
mod semantics;
mod stale;
mod transport;
mod tunnel;
mod tunnel_guard;
mod xdp;

use datapath_common::{Protocol, RouteKind};
use frame::{describe, frame};
use node::{NODE, NODE6, Node, Verdict};

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

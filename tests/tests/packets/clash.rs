//! One source port for a service and for the backend that it leads to: the plain connection gets
//! another one, wherever it is met first, and each gets its own answers.

use crate::{
    SAME, TCP, UDP,
    frame::{describe, frame},
    node::{
        FROM_POD, FROM_UPLINK, Node, TO_POD, TO_UPLINK,
        Verdict::{self, Next, Redirect},
    },
    reference, tell,
};
use datapath_common::{ConfigFlags, FrontendFlags};

/// A client that uses one port for a service and for its backend.
struct Double {
    title: &'static str,
    /// How packets between pods travel.
    flags: ConfigFlags,
    /// The flow: where, what, and with which tuple it leaves.
    service: (&'static str, &'static str, &'static str),
    /// The plain connection that would have the same tuple: where, and what becomes of it.
    plain: (&'static str, Verdict),
    /// The next hook on its way, if it goes through the stack.
    next: Option<&'static str>,
    /// The hooks on the way of its answers: the last one puts the client's port back.
    answers: &'static [(&'static str, Verdict)],
}

const NATIVE: ConfigFlags = ConfigFlags::NATIVE_ROUTING.with(ConfigFlags::LOCAL_DETECTOR);
const NODE_PORT: (&str, u16, datapath_common::Protocol) = ("0.0.0.0", 30_080, TCP);

const DOUBLES: &[Double] = &[
    Double {
        title: "a process of the node and one of its pods",
        flags: NATIVE,
        service: (
            TO_UPLINK,
            "172.18.0.3:40000 > 10.200.1.11:80",
            "172.18.0.3:40000 > 10.10.3.6:8080",
        ),
        plain: (TO_POD, Next),
        next: None,
        answers: &[(FROM_POD, Next)],
    },
    Double {
        title: "a process of the node and a pod of another",
        flags: NATIVE,
        service: (
            TO_UPLINK,
            "172.18.0.3:40000 > 10.200.1.10:80",
            "172.18.0.3:40000 > 10.10.1.7:8080",
        ),
        plain: (TO_UPLINK, Next),
        next: None,
        answers: &[(FROM_UPLINK, Next)],
    },
    Double {
        title: "a process of another node and a pod of this one",
        flags: NATIVE,
        service: (
            FROM_UPLINK,
            "172.18.0.5:40000 > 172.18.0.3:30080",
            "172.18.0.5:40000 > 10.10.3.6:8080",
        ),
        plain: (FROM_UPLINK, Next),
        next: Some(TO_POD),
        answers: &[(FROM_POD, Next), (TO_UPLINK, Next)],
    },
    Double {
        title: "the same, where routing is not ours",
        flags: ConfigFlags::LOCAL_DETECTOR,
        service: (
            FROM_UPLINK,
            "172.18.0.5:40000 > 172.18.0.3:30080",
            "172.18.0.5:40000 > 10.10.3.6:8080",
        ),
        plain: (FROM_UPLINK, Next),
        next: Some(TO_POD),
        answers: &[(FROM_POD, Next), (TO_UPLINK, Next)],
    },
    Double {
        title: "a pod of another node",
        flags: NATIVE,
        service: (
            FROM_UPLINK,
            "10.10.1.9:40000 > 172.18.0.3:30080",
            "10.10.1.9:40000 > 10.10.3.6:8080",
        ),
        plain: (FROM_UPLINK, Redirect),
        next: None,
        answers: &[(FROM_POD, Redirect)],
    },
    Double {
        title: "the same, where routing is not ours",
        flags: ConfigFlags::LOCAL_DETECTOR,
        service: (
            FROM_UPLINK,
            "10.10.1.9:40000 > 172.18.0.3:30080",
            "10.10.1.9:40000 > 10.10.3.6:8080",
        ),
        plain: (FROM_UPLINK, Next),
        next: Some(TO_POD),
        answers: &[(FROM_POD, Next), (TO_UPLINK, Next)],
    },
    Double {
        title: "somebody outside and a backend in the host's network",
        flags: NATIVE,
        service: (
            FROM_UPLINK,
            "172.18.0.100:40000 > 10.200.1.13:443",
            "172.18.0.100:40000 > 172.18.0.3:6443",
        ),
        plain: (FROM_UPLINK, Next),
        next: None,
        answers: &[(TO_UPLINK, Next)],
    },
];

/// The reference node, which lets clients from outside keep their address on its node port.
fn node(flags: ConfigFlags) -> Option<Node> {
    let mut node = reference()?;
    node.configure(flags);
    node.service(20, NODE_PORT, &[("10.10.3.6", 8080)]);
    node.change_frontend(NODE_PORT, |frontend| frontend.flags = FrontendFlags::default());
    for (service, vip, backend) in
        [(21, "10.200.1.11", ("10.10.3.6", 8080)), (22, "10.200.1.10", ("10.10.1.7", 8080))]
    {
        node.service(service, (vip, 80, UDP), &[backend]);
    }
    node.service(23, ("0.0.0.0", 30_080, UDP), &[("10.10.3.6", 8080)]);
    node.change_frontend(("0.0.0.0", 30_080, UDP), |frontend| {
        frontend.flags = FrontendFlags::default();
    });
    node.service(24, ("10.200.1.13", 443, UDP), &[("172.18.0.3", 6443)]);
    Some(node)
}

/// What a packet becomes, less its time to live.
fn becomes(node: &mut Node, hook: &str, sent: &str, verdict: Verdict) -> String {
    let (actual, out) = node.run(hook, &frame(sent));
    assert_eq!(actual, verdict, "{hook} {sent}");
    describe(&out).replace(" ttl=63", "")
}

#[test]
fn a_plain_connection_with_the_tuple_of_a_flow_gets_another_port() {
    for double in DOUBLES {
        for (opens, answers) in [("tcp S", "tcp SA"), ("udp", "udp")] {
            let Some(mut node) = node(double.flags) else { return };
            check(&mut node, double, opens, answers);
        }
    }
}

fn check(node: &mut Node, double: &Double, opens: &str, answers: &str) {
    let Double { title, flags: _, service: (hook, sent, leaves), plain, next, answers: way } =
        double;
    let (_, out) = node.run(hook, &frame(&format!("{sent} {opens}")));
    assert!(describe(&out).starts_with(leaves), "{title}: {}", describe(&out));

    let (client, backend) = leaves.split_once(" > ").expect("a tuple");
    let evading = becomes(node, plain.0, &format!("{leaves} {opens}"), plain.1);
    let (other, _) = evading.split_once(" > ").expect("a description");
    assert_ne!(other, client, "{title}: {opens} clashes");
    assert_eq!(evading, format!("{other} > {backend} {opens}"), "{title}");
    if let Some(next) = next {
        tell(node, title, &[(next, &evading, Next, SAME)]);
    }

    let mut answer = format!("{backend} > {other} {answers}");
    for (hook, verdict) in *way {
        answer = becomes(node, hook, &answer, *verdict);
    }
    assert_eq!(answer, format!("{backend} > {client} {answers}"), "{title}");

    let again = becomes(node, plain.0, &format!("{leaves} {opens}"), plain.1);
    assert_eq!(again, evading, "{title}: it keeps its port");
    assert_eq!(node.flows().len(), 4, "{title}");
}

#[test]
fn a_flow_does_not_evade_itself() {
    let Some(mut node) = reference() else { return };
    let sent = "172.18.0.3:40000 > 10.200.1.11:80 tcp S";
    let (_, out) = node.run(TO_UPLINK, &frame(sent));
    assert_eq!(node.run_marked(TO_POD, &out), (Next, out), "on its way into the pod");
    assert_eq!(node.flows().len(), 2);
}

#[test]
fn nobody_on_the_wire_evades_a_connection_of_the_node() {
    let Some(mut node) = reference() else { return };
    tell(
        &mut node,
        "a process of the node, and its double",
        &[
            (TO_UPLINK, "172.18.0.3:40000 > 10.200.1.11:80 tcp S", Redirect, ""),
            (FROM_UPLINK, "172.18.0.3:40000 > 10.10.3.6:8080 tcp S", Next, SAME),
        ],
    );
    assert_eq!(node.flows().len(), 2);
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

//! Source addresses and ports of masqueraded flows; the ports are few, and given out again.

use crate::{
    frame::{describe, frame},
    node::{
        FROM_UPLINK, Node,
        Verdict::{self, Drop, Redirect},
    },
    reference,
};
use datapath_common::{FlowFlags, Outcome};

/// A client from outside sends to a Service whose backend is on another node; what comes out.
fn send(node: &mut Node, client: &str, flags: &str) -> (Verdict, String) {
    let (verdict, out) =
        node.run(FROM_UPLINK, &frame(&format!("{client} > 10.200.1.10:80 tcp {flags}")));
    (verdict, describe(&out))
}

/// To whom answers to the only port that there is would go.
fn owner(node: &mut Node) -> String {
    let flows = node.flows().into_iter();
    let mut answers = flows.filter(|(_, flow)| !flow.flags.has(FlowFlags::FORWARD));
    let (_, flow) = answers.next().expect("a flow");
    assert_eq!(answers.next(), None, "the port has one owner");
    format!("{}:{}", flow.to.dst, flow.to.ports.dst.host())
}

#[test]
fn the_port_of_a_finished_connection_is_given_to_another() {
    const FIRST: &str = "172.18.0.100:40000";
    const SECOND: &str = "172.18.0.101:50000";
    for (client, server, finished) in [
        ("A", "A", false),
        ("FA", "A", false),
        ("A", "FA", false),
        ("FA", "FA", true),
        ("RA", "A", true),
        ("A", "RA", true),
    ] {
        let Some(mut node) = reference() else { return };
        node.change_config(|config| (config.port_min, config.port_max) = (61_000, 61_000));
        send(&mut node, FIRST, "S");
        send(&mut node, FIRST, client);
        let answer = format!("10.10.1.7:8080 > 172.18.0.3:61000 tcp {server}");
        node.run(FROM_UPLINK, &frame(&answer));
        assert_eq!(owner(&mut node), FIRST);
        let story = format!("client {client}, server {server}");
        let (verdict, out) = send(&mut node, SECOND, "S");
        if finished {
            assert_eq!(out, "172.18.0.3:61000 > 10.10.1.7:8080 tcp S ttl=63", "{story}");
            assert_eq!(owner(&mut node), SECOND, "{story}");
        } else {
            assert_eq!((verdict, node.count(Outcome::DroppedNoPort)), (Drop, 1), "{story}");
            assert_eq!(owner(&mut node), FIRST, "{story}");
        }
    }
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

//! What clients with a socket open meet when what they talk to goes.

use crate::world::{CLIENT, PATIENCE, Way, World, all};
use anyhow::{Context as _, Result, anyhow, ensure};
use lab::{
    manifest::{POD_PORT, PodSpec},
    proto::{Ask, Verdict},
    proxy::Kind,
    service::{Service, web_ports},
    space::Socket,
    suite::{Cases, eventually},
    topology::{Family, OUTSIDE},
};
use serde_json::json;
use std::{net::SocketAddr, time::Duration};

/// How long an answer may take where one is due.
const ANSWER: Duration = Duration::from_millis(300);
/// How long a client may be left without word of a pod that is gone: the time of some
/// retransmissions, not that of a connection that hangs.
const WORD: Duration = Duration::from_secs(30);

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    // kube-proxy is known to fail all of these (kubernetes#139628, #141371, #102631).
    if !world.kind.is_datapath() {
        return;
    }
    suite.case("stale::udp_ends_with_its_service", || ends_with_its_service(world));
    suite.case("stale::udp_ends_with_its_node_port", || ends_with_its_node_port(world));
    suite.case("stale::udp_begins_when_an_endpoint_is_ready", || begins(world));
    suite.case("stale::connections_to_a_gone_pod_are_reset", || reset(world));
}

/// A Service of node ports with one pod, on worker 2.
fn with_pod(world: &World, app: &str) -> Result<Service> {
    world.lab.create_pod(PodSpec::new(app, world.away, app))?;
    let spec = json!({
        "type": "NodePort", "selector": {"app": app}, "ports": web_ports(POD_PORT),
    });
    let service = world.lab.create_service(app, &spec)?;
    world.settle_service(&service)?;
    Ok(service)
}

/// Where the Service answers: its cluster address to pods and nodes, a node port to the outside.
fn place(
    world: &World,
    service: &Service,
    client: &str,
    family: Family,
    way: Way,
) -> Result<SocketAddr> {
    if client != OUTSIDE {
        return service.at(family, 80);
    }
    let node = world.home.address().get(family);
    Ok(SocketAddr::new(node, service.node_port(usize::from(way.is_udp()))?))
}

fn open(world: &World, client: &str, ask: &Ask) -> Result<Socket> {
    world.space(client)?.open(ask)?.map_err(|verdict| anyhow!("{verdict}"))
}

/// A flow that was answered, by what it is.
type Flow = (String, Socket);

/// Datagram sockets of every kind of client that have been answered by the Service.
fn flows(world: &World, service: &Service, clients: &[&str]) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for client in clients {
        for family in Family::ALL {
            for way in [Way::UDP, Way::CONNECTED_UDP] {
                let to = place(world, service, client, family, way)?;
                let title = format!("{way} {family} from {client} to {to}");
                let socket = open(world, client, &way.ask(to, "hostname"))?;
                eventually(PATIENCE, || {
                    let verdict = socket.ask_within("hostname", ANSWER)?;
                    verdict.answer().with_context(|| format!("{title}: {verdict}"))?;
                    Ok(())
                })?;
                flows.push((title, socket));
            }
        }
    }
    Ok(flows)
}

/// Deletes the Service: nobody is answered any more, though the pod is still there and the clients
/// never stop asking.
fn ends_with_its_service(world: &World) -> Result<()> {
    let service = with_pod(world, "udp-ends")?;
    let flows = flows(world, &service, &[OUTSIDE, CLIENT, world.home.name, "other"])?;
    world.lab.delete_service(service.name())?;
    let result = all(flows.iter().map(silent));
    world.lab.delete_pod("udp-ends")?;
    result
}

/// Takes the node port away: only those who dialled the cluster address are still answered.
fn ends_with_its_node_port(world: &World) -> Result<()> {
    let service = with_pod(world, "udp-closes")?;
    let outside = flows(world, &service, &[OUTSIDE])?;
    let inside = flows(world, &service, &[CLIENT, world.home.name, "other"])?;
    world.lab.patch_service(service.name(), &json!({"spec": {"type": "ClusterIP"}}))?;
    let closed = all(outside.iter().map(silent));
    let open = all(inside.iter().map(|(title, socket)| {
        eventually(PATIENCE, || {
            let verdict = socket.ask_within("hostname", ANSWER)?;
            ensure!(verdict.answer().is_some(), "{title}: {verdict}");
            Ok(())
        })
    }));
    world.lab.delete_service(service.name())?;
    world.lab.delete_pod("udp-closes")?;
    closed.and(open)
}

fn silent((title, socket): &Flow) -> Result<()> {
    eventually(PATIENCE, || {
        let verdict = socket.ask_within("hostname", ANSWER)?;
        ensure!(verdict.answer().is_none(), "{title}: {verdict}");
        Ok(())
    })
}

/// A client with a fixed port that asked before anybody was ready is served when somebody is, and
/// moves to the next when that one goes.
fn begins(world: &World) -> Result<()> {
    world.lab.create_pod(PodSpec::new("udp-begins-1", world.away, "udp-begins"))?;
    world.lab.set_ready("udp-begins-1", false)?;
    let spec = json!({
        "type": "NodePort", "selector": {"app": "udp-begins"}, "ports": web_ports(POD_PORT),
    });
    let service = world.lab.create_service("udp-begins", &spec)?;
    let mut sockets = Vec::new();
    for client in [OUTSIDE, CLIENT, world.home.name, "other"] {
        // The wildcard address of IPv6 takes a port in IPv4 too.
        for (family, port) in Family::ALL.into_iter().zip(12_345..) {
            let to = place(world, &service, client, family, Way::UDP)?;
            let ask = Ask { source_port: port, ..Way::UDP.ask(to, "hostname") };
            let socket = open(world, client, &ask)?;
            let verdict = socket.ask_within("hostname", ANSWER)?;
            ensure!(verdict.answer().is_none(), "from {client} before: {verdict}");
            sockets.push((format!("{family} from {client}"), socket));
        }
    }
    let served_by = |name: &str| {
        all(sockets.iter().map(|(title, socket)| {
            eventually(PATIENCE, || {
                let verdict = socket.ask_within("hostname", ANSWER)?;
                ensure!(verdict.answer() == Some(name), "{title}: {verdict}, not {name}");
                Ok(())
            })
        }))
    };
    world.lab.set_ready("udp-begins-1", true)?;
    let first = served_by("udp-begins-1");
    world.lab.create_pod(PodSpec::new(
        "udp-begins-2",
        &world.lab.topology().nodes[3],
        "udp-begins",
    ))?;
    world.lab.delete_pod("udp-begins-1")?;
    let second = served_by("udp-begins-2");
    world.lab.delete_service("udp-begins")?;
    world.lab.delete_pod("udp-begins-2")?;
    first.and(second)
}

/// The pod's link goes as if the machine had pulled it out: no segment of its own says so.
fn reset(world: &World) -> Result<()> {
    let service = with_pod(world, "crash")?;
    let pod = world.lab.pod("crash")?;
    let mut sockets = Vec::new();
    for client in reset_clients(world) {
        for family in Family::ALL {
            let to = match client {
                // Arrives at the pod's own node.
                OUTSIDE => {
                    SocketAddr::new(pod.spec.node.address().get(family), service.node_port(0)?)
                }
                _ => service.at(family, 80)?,
            };
            let socket = open(world, client, &Way::TCP.ask(to, "hostname"))?;
            let verdict = socket.ask("/hostname")?;
            ensure!(verdict.answer() == Some("crash"), "from {client} before: {verdict}");
            sockets.push((format!("{family} from {client}"), socket));
        }
    }
    let device = pod.device.as_ref().context("a pod without a link")?;
    world.lab.node(pod.spec.node.name)?.space.ip(&format!("link del {device}\n"))?;
    let result = all(sockets.iter().map(|(title, socket)| {
        let verdict = socket.ask_within("/hostname", WORD)?;
        ensure!(verdict == Verdict::Errno(libc::ECONNRESET), "{title}: {verdict}");
        Ok(())
    }));
    world.lab.delete_service("crash")?;
    world.lab.delete_pod("crash")?;
    result
}

/// Where routing is ours, everybody is told. Where it is not, only flows that the pod's node itself
/// translates tell that the address was a pod's.
fn reset_clients(world: &World) -> Vec<&'static str> {
    match world.kind {
        Kind::Datapath { routing, .. } if routing != "none" => {
            vec![OUTSIDE, CLIENT, world.home.name, "other", world.away.name]
        }
        Kind::Datapath { socket_lb: false, .. } => vec![OUTSIDE, "other", world.away.name],
        _ => vec![OUTSIDE],
    }
}

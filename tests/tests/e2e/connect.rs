//! ClusterIPs: who answers, whom it sees, and how the load spreads.

use crate::world::{
    CLIENT, PATIENCE, Target, Way, World, all, answer, expect_answer, expect_rejection,
};
use anyhow::{Context as _, Result, ensure};
use lab::{
    manifest::POD_PORT,
    proto::{Ask, Op, Proto, Verdict},
    proxy::Kind,
    service::web,
    space::Space,
    suite::{Cases, eventually},
    topology::Family,
};
use std::net::{IpAddr, SocketAddr};

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    let host_pod = format!("host-{}", world.home.short());
    // Name in the case, place in the lab.
    let clients =
        [("pod", CLIENT), ("node", world.home.name), ("host_network_pod", host_pod.as_str())];
    for (name, place) in clients {
        for target in &world.targets {
            if target.backend == CLIENT && place != CLIENT {
                continue;
            }
            let case = format!("clusterip::{name}_to_{}", target.place);
            suite.case(&case, || reach(world, place, target));
        }
    }
    suite.case("clusterip::every_node_to_every_node", || every_pair(world));
    suite.case("clusterip::spreads_evenly", || spread(world));
    suite.case("clusterip::without_endpoints_is_rejected", || {
        rejected(world, |family| world.empty.at(family, 80))
    });
    if world.oracle("iptables") {
        suite.ignore("clusterip::unserved_port_is_rejected", "iptables mode has no rule for it");
    } else {
        suite.case("clusterip::unserved_port_is_rejected", || {
            rejected(world, |family| world.web.at(family, 81))
        });
    }
    suite.case("clusterip::large_datagrams", || large_datagrams(world));
    suite.case("clusterip::long_transfer", || transfer(world));
    suite.case("clusterip::path_mtu", || path_mtu(world));
    suite.case("pods::reach_pods_directly", || direct(world));
    suite.case("pods::port_used_again_for_the_pod_itself", || port_again(world));
}

/// One client, one backend, every way and family: who answers and which source it sees.
fn reach(world: &World, client: &str, target: &Target) -> Result<()> {
    let space = world.space(client)?;
    let mut checks = Vec::new();
    for family in Family::ALL {
        for way in Way::ALL {
            let to = target.service.at(family, 80)?;
            let check = expect_answer(&space, &way.ask(to, "hostname"), target.backend)
                .and_then(|()| source(world, client, target, &way.ask(to, "clientip")));
            checks.push(check.with_context(|| format!("{way} {family}")));
        }
    }
    all(checks)
}

/// Requires that a backend sees a pod as itself, and a node as one of its own addresses.
fn source(world: &World, client: &str, target: &Target, ask: &Ask) -> Result<()> {
    let seen: SocketAddr = answer(&*world.space(client)?, ask)?.parse()?;
    let home = world.home;
    let family = if ask.to.is_ipv4() { Family::V4 } else { Family::V6 };
    let pod = world.lab.pod(CLIENT)?.address.get(family);
    let mut own: Vec<IpAddr> = if client == CLIENT && target.backend != CLIENT {
        vec![pod]
    } else {
        vec![home.address().get(family), home.pod(1).get(family), pod]
    };
    // Connected UDP sockets are left to tc: they could not move to another backend.
    let by_tc = matches!(world.kind, Kind::Datapath { socket_lb: true, .. })
        && ask.proto == Proto::Udp
        && ask.connected;
    if by_tc && client != CLIENT && target.place == "host_network_here" {
        // Beside socket hooks, what tc lets a node send to itself comes in from the address that was
        // dialled: the kernel takes no packet from outside that claims to be from itself. Without
        // them it is asked to.
        own.push(ask.to.ip());
    }
    ensure!(own.contains(&seen.ip()), "the backend sees {seen}, not one of {own:?}");
    Ok(())
}

/// Every node's pods and processes reach a backend on every other node.
fn every_pair(world: &World) -> Result<()> {
    let mut checks = Vec::new();
    for node in world.lab.nodes() {
        for client in [node.spec.name.to_owned(), format!("web-{}-1", node.spec.short())] {
            let space = world.space(&client)?;
            for family in Family::ALL {
                let ask = Way::TCP.ask(world.web.at(family, 80)?, "hostname");
                checks.push(reaches_all(world, &space, &ask));
            }
        }
    }
    all(checks)
}

fn reaches_all(world: &World, space: &Space, ask: &Ask) -> Result<()> {
    let counts = space.spread(ask, 80)?;
    for pod in world.lab.pods().iter().filter(|pod| pod.spec.name.starts_with("web-")) {
        let verdict = Verdict::Answer(pod.spec.name.clone());
        ensure!(counts.contains_key(&verdict), "{} never reached {verdict}", space.name());
    }
    let failed: Vec<_> = counts.iter().filter(|(verdict, _)| verdict.answer().is_none()).collect();
    ensure!(failed.is_empty(), "{} to {}: {failed:?}", space.name(), ask.to);
    Ok(())
}

/// 400 requests over 8 backends: 50 each, five standard deviations (of 6.6) either way.
fn spread(world: &World) -> Result<()> {
    let mut checks = Vec::new();
    for client in [CLIENT, world.home.name] {
        let space = world.space(client)?;
        for family in Family::ALL {
            for way in Way::ALL {
                let counts = space.spread(&way.ask(world.web.at(family, 80)?, "hostname"), 400)?;
                let even = counts.len() == 8 && counts.values().all(|n| (17..=83).contains(n));
                checks.push(
                    even.then_some(())
                        .with_context(|| format!("{way} {family} from {client}: {counts:?}")),
                );
            }
        }
    }
    all(checks)
}

fn rejected(world: &World, to: impl Fn(Family) -> Result<SocketAddr>) -> Result<()> {
    let mut checks = Vec::new();
    for client in [CLIENT, world.home.name] {
        let space = world.space(client)?;
        for family in Family::ALL {
            // An unconnected UDP socket is not told of ICMP errors.
            for way in [Way::TCP, Way::CONNECTED_UDP] {
                let ask = way.ask(to(family)?, "hostname");
                let check = expect_rejection(&space, &ask);
                checks.push(check.with_context(|| format!("{way} {family}")));
            }
        }
    }
    all(checks)
}

/// Datagrams that travel in fragments, both ways.
fn large_datagrams(world: &World) -> Result<()> {
    let space = world.space(CLIENT)?;
    let mut checks = Vec::new();
    for target in &world.targets {
        for family in Family::ALL {
            for way in [Way::UDP, Way::CONNECTED_UDP] {
                for size in [1400, 1473, 4000, 30_000] {
                    let text = "d".repeat(size);
                    let ask = way.ask(target.service.at(family, 80)?, &format!("echo {text}"));
                    checks.push(
                        answer(&space, &ask)
                            .and_then(|echo| {
                                ensure!(echo == text, "{} of {size} bytes came back", echo.len());
                                Ok(())
                            })
                            .with_context(|| format!("{way} {family} {size} to {}", target.place)),
                    );
                }
            }
        }
    }
    all(checks)
}

fn transfer(world: &World) -> Result<()> {
    let mut checks = Vec::new();
    for client in [CLIENT, world.home.name] {
        let space = world.space(client)?;
        for target in world.targets.iter().filter(|target| target.backend != CLIENT) {
            for family in Family::ALL {
                let to = target.service.at(family, 80)?;
                let verdict = space.transfer(to, 8 << 20, std::time::Duration::ZERO)?;
                let ok = verdict.answer().is_some();
                checks.push(
                    ok.then_some(()).with_context(|| {
                        format!("{family} {client} to {}: {verdict}", target.place)
                    }),
                );
            }
        }
    }
    all(checks)
}

/// The node network carries 1400 bytes, the pods believe in more: only translated ICMP errors tell
/// both ends to send less.
fn path_mtu(world: &World) -> Result<()> {
    world.set_underlay_mtu(1400)?;
    let result = small_path(world);
    world.set_underlay_mtu(world.lab.topology().mtu)?;
    result
}

fn small_path(world: &World) -> Result<()> {
    let space = world.space(CLIENT)?;
    let target = world.targets.iter().find(|target| target.place == "other_node");
    let service = &target.context("no target on another node")?.service;
    let mut checks = Vec::new();
    for family in Family::ALL {
        let to = service.at(family, 80)?;
        let path = format!("length/{}", "u".repeat(200_000));
        let up = answer(&space, &Way::TCP.ask(to, &path)).and_then(|length| {
            ensure!(length == (path.len() + 1).to_string(), "{length} bytes arrived");
            Ok(())
        });
        checks.push(up.with_context(|| format!("{family} upload")));
        let verdict = space.transfer(to, 1 << 20, std::time::Duration::ZERO)?;
        let ok = verdict.answer().is_some();
        checks.push(ok.then_some(()).with_context(|| format!("{family} download: {verdict}")));
        // The first datagram is what the path's limit is learnt from.
        let text = "d".repeat(world.lab.topology().pod_mtu as usize - 50);
        let ask = Way::CONNECTED_UDP.ask(to, &format!("echo {text}"));
        let echo = eventually(PATIENCE, || answer(&space, &Ask { timeout_ms: 300, ..ask.clone() }));
        checks.push(echo.map(drop).with_context(|| format!("{family} datagram")));
    }
    all(checks)
}

/// Pod to pod without a Service, on one node and across.
fn direct(world: &World) -> Result<()> {
    let mut checks = Vec::new();
    for client in [CLIENT, world.home.name] {
        let space = world.space(client)?;
        for backend in ["same", "other"] {
            let pod = world.lab.pod(backend)?;
            for family in Family::ALL {
                for way in Way::ALL {
                    let to = SocketAddr::new(pod.address.get(family), POD_PORT);
                    checks.push(expect_answer(&space, &way.ask(to, "hostname"), backend));
                }
            }
        }
    }
    all(checks)
}

/// A client may use one source port for a Service and, at the same time or after it, for a pod
/// behind it: those are two connections to the client. The Service has session affinity, which
/// keeps it from being translated at the socket.
fn port_again(world: &World) -> Result<()> {
    /// Below the range that the kernel chooses from.
    const PORT: u16 = 20_000;
    let mut spec = web("other");
    spec["sessionAffinity"] = "ClientIP".into();
    let service = world.lab.create_service("again", &spec)?;
    world.settle_service(&service)?;
    let space = world.space(CLIENT)?;
    // Where the client closes first, its port rests a second, not a minute.
    space.tell(Op::Sysctl(vec![("net/ipv4/tcp_tw_reuse".to_owned(), "1".to_owned())]))?;
    let pod = world.lab.pod("other")?;
    let mut checks = Vec::new();
    for family in Family::ALL {
        for (port, way) in (PORT..).zip(Way::ALL) {
            let from = |to| Ask { source_port: port, ..way.ask(to, "hostname") };
            let (through, straight) =
                (from(service.at(family, 80)?), from((pod.address.get(family), POD_PORT).into()));
            for (ask, which) in
                [(&through, "Service"), (&straight, "pod"), (&through, "Service again")]
            {
                let check = answers_by_port(&space, ask);
                checks.push(check.with_context(|| format!("{way} {family} to the {which}")));
            }
        }
    }
    world.lab.delete_service("again")?;
    all(checks)
}

/// Requires an answer of the pod `other`, as soon as the client may use the port.
fn answers_by_port(space: &Space, ask: &Ask) -> Result<()> {
    let verdict = eventually(PATIENCE, || {
        let verdict = space.ask(ask)?;
        ensure!(verdict != Verdict::Errno(libc::EADDRNOTAVAIL), "the port rests");
        Ok(verdict)
    })?;
    ensure!(verdict.answer() == Some("other"), "{verdict} instead of an answer");
    Ok(())
}

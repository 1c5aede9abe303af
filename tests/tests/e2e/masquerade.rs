//! Pods' way out of the cluster, under the address of their node.

use crate::world::{CLIENT, PATIENCE, Way, World, all, answer, expect_rejection};
use anyhow::{Context as _, Result, ensure};
use lab::{
    manifest::POD_PORT,
    suite::{Cases, eventually},
    topology::{Dual, Family, OUTSIDE},
};
use std::net::{IpAddr, SocketAddr};

/// A port that nobody listens at.
const CLOSED: u16 = 9;

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    if world.kind.is_datapath() {
        suite.case("masquerade::outside_sees_the_node", || outside(world));
    }
}

/// Where the pods' network is ours, pods are hidden without a word of the operator.
pub(crate) fn run_alone(suite: &mut Cases<'_>, world: &World) {
    suite.case("masquerade::is_on_where_the_network_is_ours", || hidden(world));
    suite.case("masquerade::leaves_out_what_the_operator_says", || left_out(world));
}

/// The client's node alone hides its pods, and only for the length of this case.
fn outside(world: &World) -> Result<()> {
    restart(world, &["--masquerade-outside=on".to_owned()])?;
    let result = hidden(world);
    restart(world, &[])?;
    result
}

fn hidden(world: &World) -> Result<()> {
    all([seen(world, world.home.address()), icmp(world), refused(world)])
}

/// Somebody outside who knows the way to pods sees them as they are, if they are to be seen by him.
fn left_out(world: &World) -> Result<()> {
    let Dual { v4, v6 } = world.lab.topology().outside;
    restart(world, &[format!("--non-masquerade-cidrs={v4}/32,{v6}/128")])?;
    let outside = world.space(OUTSIDE)?;
    let ways = world.home.pod_ranges().into_iter().zip(world.home.address().both());
    let ways: Vec<_> = ways.map(|(range, via)| format!("{range} via {via}")).collect();
    let known = ways.iter().try_for_each(|way| outside.ip(&format!("route replace {way}\n")));
    let result = known.and_then(|()| seen(world, world.lab.pod(CLIENT)?.address));
    for way in ways {
        outside.ip(&format!("route del {way}\n"))?;
    }
    restart(world, &[])?;
    result
}

fn restart(world: &World, flags: &[String]) -> Result<()> {
    let node = world.lab.node(world.home.name)?;
    world.lab.take_proxy(node)?.stop()?;
    world.lab.start_proxy_with(node, world.kind, flags)?;
    world.lab.wait_proxy(node)
}

/// Whom a server sees when the client asks it; one outside sees `hidden`.
fn seen(world: &World, hidden: Dual) -> Result<()> {
    let client = world.lab.pod(CLIENT)?;
    let other = world.lab.pod("other")?;
    let mut checks = Vec::new();
    for family in Family::ALL {
        let own = client.address.get(family);
        for (server, port, expected) in [
            (world.lab.topology().outside.get(family), POD_PORT, hidden.get(family)),
            (other.address.get(family), POD_PORT, own),
            (world.lab.topology().nodes[3].address().get(family), 9081, own),
        ] {
            for way in Way::ALL {
                let to = SocketAddr::new(server, port);
                let check = eventually(PATIENCE, || sees(world, way, to, expected));
                checks.push(check.with_context(|| format!("{way} to {to}")));
            }
        }
    }
    all(checks)
}

fn sees(world: &World, way: Way, to: SocketAddr, expected: IpAddr) -> Result<()> {
    let text = answer(&*world.space(CLIENT)?, &way.ask(to, "clientip"))?;
    let seen: SocketAddr = text.parse()?;
    ensure!(seen.ip() == expected, "the client appears as {seen}, not as {expected}");
    Ok(())
}

/// Echoes, and errors from routers on the way and from the end.
fn icmp(world: &World) -> Result<()> {
    let client = world.space(CLIENT)?;
    all(world.lab.topology().outside.both().map(|to| {
        let to = to.to_string();
        eventually(PATIENCE, || {
            client.output("ping", &["-n", "-c", "1", "-W", "2", &to]).map(drop)
        })
        .with_context(|| format!("ping {OUTSIDE}"))?;
        let large = ["-n", "-c", "1", "-W", "2", "-s", "20000", &to];
        eventually(PATIENCE, || client.output("ping", &large).map(drop))
            .with_context(|| format!("a ping in fragments to {OUTSIDE}"))?;
        eventually(PATIENCE, || {
            let args = ["-n", "-q", "1", "-w", "2", "-m", "4", &to];
            let route = client.output("traceroute", &args)?;
            let hops: Vec<&str> = route.lines().skip(1).collect();
            let whole = hops.len() == 2 && !hops[0].contains('*') && hops[1].contains(&to);
            ensure!(whole, "not by the node to {to}: {route}");
            Ok(())
        })
    }))
}

/// Who is refused out there is told at once.
fn refused(world: &World) -> Result<()> {
    let client = world.space(CLIENT)?;
    all(Family::ALL.into_iter().flat_map(|family| {
        let to = SocketAddr::new(world.lab.topology().outside.get(family), CLOSED);
        [Way::TCP, Way::CONNECTED_UDP].map(|way| {
            eventually(PATIENCE, || expect_rejection(&client, &way.ask(to, "hostname")))
                .with_context(|| format!("{way} to {to}"))
        })
    }))
}

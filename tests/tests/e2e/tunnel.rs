//! Pods behind tunnels: who reaches whom, and what is on the wire and in the counters meanwhile.

use crate::world::{PATIENCE, World, all};
use anyhow::{Context as _, Result, ensure};
use lab::{
    Pod,
    manifest::POD_PORT,
    proxy,
    proxy::Kind,
    suite::{Cases, eventually},
    topology::Family,
};
use std::{net::SocketAddr, process::Stdio, thread, time::Duration};

/// How long a capture takes to start.
const START: Duration = Duration::from_millis(700);
/// Bytes of the IP packet of a ping.
const PING: u64 = 84;

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    suite.case("tunnel::every_pod_reaches_every_pod", || world.every_pod_reaches_every_pod());
    suite.case("tunnel::is_on_the_wire_where_the_mode_says", || on_the_wire(world));
    suite.case("tunnel::fits_the_underlay_to_the_byte", || sizes(world));
    suite.case("tunnel::carries_long_transfers", || transfer(world));
}

/// One ping to a pod in the same subnet and one to a pod in another: the inner packet is 84 bytes and has
/// passed two routers; the outer one is there where it must be.
fn on_the_wire(world: &World) -> Result<()> {
    let Kind::Datapath { routing, .. } = world.kind else { return Ok(()) };
    let far = world.lab.topology().nodes.last().context("no nodes")?;
    let mut checks = Vec::new();
    for (server, wrapped) in [
        (format!("web-{}-1", world.away.short()), routing == "ipip"),
        (format!("web-{}-1", far.short()), true),
    ] {
        // A connection of a case before may still be ending.
        let server = world.lab.pod(&server)?;
        let check = eventually(PATIENCE, || ping_is_seen(world, &server, wrapped));
        checks.push(check.with_context(|| format!("to {}", server.spec.name)));
    }
    all(checks)
}

fn ping_is_seen(world: &World, server: &Pod, wrapped: bool) -> Result<()> {
    let node = world.lab.node(world.home.name)?;
    let (client, there) = (world.space("client")?, server.spec.node.address().v4);
    let before = proxy::tunnel_counters(node, there)?;
    let capture = node
        .space
        .command("tcpdump")?
        .args(["-n", "-l", "-v", "-i", "eth0", "-c", "2", "ip proto 4 or icmp"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start tcpdump")?;
    thread::sleep(START);
    let to = server.address.v4.to_string();
    let ping = client.output("ping", &["-n", "-c", "1", "-W", "2", &to])?;
    ensure!(ping.contains("ttl=62"), "not two routers: {ping}");
    let seen = capture.wait_with_output()?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    let own = world.home.address().v4;
    let outer = seen.contains("IPIP (4)") && seen.contains(&format!("{own} > {there}: "));
    ensure!(outer == wrapped, "wrapped: {outer}, expected: {wrapped}\n{seen}");
    let after = proxy::tunnel_counters(node, there)?;
    let grown = [0, 1, 2, 3].map(|index| after[index] - before[index]);
    let expected = if wrapped { [1, PING, 1, PING] } else { [0; 4] };
    ensure!(grown == expected, "the counters grew by {grown:?}, not {expected:?}");
    Ok(())
}

/// 8981 bytes fit into 9001; one more is too much, and the pod is told so.
fn sizes(world: &World) -> Result<()> {
    let client = world.space("client")?;
    let far = world.lab.topology().nodes.last().context("no nodes")?;
    let to = world.lab.pod(&format!("web-{}-1", far.short()))?.address.v4.to_string();
    let ping = |bytes: u32| {
        let size = (bytes - 28).to_string();
        client.output("ping", &["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to])
    };
    ping(world.lab.topology().pod_mtu)?;
    client.ip("link set eth0 mtu 9001\n")?;
    let told = ping(world.lab.topology().pod_mtu + 1);
    client.ip(&format!("link set eth0 mtu {}\n", world.lab.topology().pod_mtu))?;
    let told = told.err().context("more than the tunnel holds was answered")?.to_string();
    ensure!(told.contains("mtu = 8981") || told.contains("mtu=8981"), "{told}");
    Ok(())
}

fn transfer(world: &World) -> Result<()> {
    let client = world.space("client")?;
    let far = world.lab.topology().nodes.last().context("no nodes")?;
    let server = world.lab.pod(&format!("web-{}-1", far.short()))?;
    let mut checks = Vec::new();
    for family in Family::ALL {
        let to = SocketAddr::new(server.address.get(family), POD_PORT);
        let verdict = client.transfer(to, 32 << 20, Duration::ZERO)?;
        let ok = verdict.answer().is_some();
        checks.push(ok.then_some(()).with_context(|| format!("{family}: {verdict}")));
    }
    all(checks)
}

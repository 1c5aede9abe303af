//! Frontends that the outside sees, and the traffic policies.

use crate::world::{
    CLIENT, PATIENCE, Way, World, all, answer, expect_answer, expect_rejection, expect_silence,
};
use anyhow::{Context as _, Result, anyhow, ensure};
use lab::{
    manifest::POD_PORT,
    proto::Verdict,
    service::{Service, web_ports},
    space::Space,
    suite::{Cases, eventually},
    topology::{Family, OUTSIDE},
};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    thread,
};

/// Addresses that no interface has, one of each family.
const EXTERNAL: [&str; 2] = ["203.0.113.250", "2001:db8::250"];
/// The same for the load balancer.
const VIP: [&str; 2] = ["203.0.113.10", "2001:db8::10"];

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    suite.case("nodeport::cluster_policy", || node_port(world));
    suite.case("nodeport::local_policy", || node_port_local(world));
    suite.case("nodeport::without_endpoints_is_rejected", || node_port_empty(world));
    if world.kind.is_datapath() {
        suite.case("nodeport::direct_server_return", || direct(world));
    }
    suite.case("external_ip::from_pod_node_and_outside", || external_ip(world));
    suite.case("load_balancer::vip_and_source_ranges", || load_balancer(world));
    suite.case("internal_policy::local", || internal_local(world));
    suite.case("affinity::one_backend_for_one_client", || affinity(world));
}

/// A Service for the length of one case.
struct Temporary<'a> {
    world: &'a World,
    service: Service,
}

impl<'a> Temporary<'a> {
    fn new(world: &'a World, name: &str, app: &str, more: &Value) -> Result<Self> {
        let mut spec = json!({"selector": {"app": app}, "ports": web_ports(POD_PORT)});
        lab::manifest::merge(&mut spec, more);
        Ok(Self { world, service: world.lab.create_service(name, &spec)? })
    }

    /// The Service after a change.
    fn patch(&mut self, patch: &Value) -> Result<()> {
        self.service = self.world.lab.patch_service(self.service.name(), patch)?;
        Ok(())
    }

    /// A node's address with the port's number on the nodes.
    fn on_node(&self, node: &str, family: Family, way: Way) -> Result<SocketAddr> {
        let port = self.service.node_port(usize::from(way.is_udp()))?;
        Ok(SocketAddr::new(self.world.lab.node(node)?.spec.address().get(family), port))
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.world.lab.delete_service(self.service.name()) {
            tracing::error!(error = format!("{error:#}"), "cannot delete a Service");
        }
    }
}

/// Repeats the check for every way and family, waiting for the first success of each; all at once, since
/// silence takes its time.
fn everywhere(check: impl Fn(Family, Way) -> Result<()> + Sync) -> Result<()> {
    let check = &check;
    let ways = Family::ALL.into_iter().flat_map(|family| Way::ALL.map(|way| (family, way)));
    thread::scope(|scope| {
        let start = |(family, way)| {
            scope.spawn(move || {
                eventually(PATIENCE, || check(family, way))
                    .with_context(|| format!("{way} {family}"))
            })
        };
        let threads: Vec<_> = ways.map(start).collect();
        all(threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_panic| anyhow!("panicked"))?))
    })
}

fn node_port(world: &World) -> Result<()> {
    let service = Temporary::new(world, "nodeport", "web", &json!({"type": "NodePort"}))?;
    let clients = [OUTSIDE, CLIENT, world.home.name];
    everywhere(|family, way| {
        for client in clients {
            let space = world.space(client)?;
            for node in world.lab.nodes() {
                let to = service.on_node(node.spec.name, family, way)?;
                answered(&space, to, way)?;
            }
        }
        Ok(())
    })
}

/// Requires an answer from one of the pods `web-*`, ten times.
fn answered(space: &Space, to: SocketAddr, way: Way) -> Result<()> {
    let counts = space.spread(&way.ask(to, "hostname"), 10)?;
    let good = counts
        .keys()
        .all(|verdict| matches!(verdict, Verdict::Answer(name) if name.starts_with("web-")));
    ensure!(good, "from {} to {to}: {counts:?}", space.name());
    Ok(())
}

/// Only nodes with a backend answer, and the backend sees the client.
fn node_port_local(world: &World) -> Result<()> {
    let policy = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let service = Temporary::new(world, "nodeport-local", "other", &policy)?;
    let space = world.space(OUTSIDE)?;
    everywhere(|family, way| {
        let to = service.on_node(world.away.name, family, way)?;
        expect_answer(&space, &way.ask(to, "hostname"), "other")?;
        let seen: SocketAddr = answer(&space, &way.ask(to, "clientip"))?.parse()?;
        let own = world.lab.topology().outside.get(family);
        ensure!(seen.ip() == own, "the backend sees {seen}, not {own}");
        expect_silence(&space, &way.ask(service.on_node(world.home.name, family, way)?, "hostname"))
    })
}

/// A backend on another node sees the client and answers it directly, where the Service wants that; others
/// reach it all the same. The client's node knows of no answer.
fn direct(world: &World) -> Result<()> {
    let dsr = json!({"metadata": {"annotations": {"datapath/forwarding": "dsr"}}});
    let mut service = Temporary::new(world, "direct", "other", &json!({"type": "NodePort"}))?;
    service.patch(&dsr)?;
    let space = world.space(OUTSIDE)?;
    let seen_by = |service: &Temporary<'_>, node, family, way: Way| {
        let to = service.on_node(node, family, way)?;
        let seen: SocketAddr = answer(&space, &way.ask(to, "clientip"))?.parse()?;
        let own = world.lab.topology().outside.get(family);
        ensure!(seen.ip() == own, "the backend sees {seen}, not {own}, by way of {node}");
        Ok(())
    };
    everywhere(|family, way| {
        for node in world.lab.nodes() {
            seen_by(&service, node.spec.name, family, way)?;
        }
        for client in [CLIENT, world.home.name] {
            let to = service.on_node(world.home.name, family, way)?;
            expect_answer(&*world.space(client)?, &way.ask(to, "hostname"), "other")?;
        }
        Ok(())
    })?;
    let home = world.lab.node(world.home.name)?;
    let flows = lab::proxy::datapath(home, &["flow", "list", "--limit", "0", "-o", "json"])?;
    let flows: Vec<Value> = serde_json::from_slice(&{ flows }.output()?.stdout)?;
    for outside in world.lab.topology().outside.both() {
        let of_client = |flow: &&Value| {
            let client = flow["client"].as_str().and_then(|client| client.parse().ok());
            client.is_some_and(|client: SocketAddr| client.ip() == outside)
        };
        let passed_on: Vec<_> =
            flows.iter().filter(|flow| flow["dsr"] == true).filter(of_client).collect();
        ensure!(!passed_on.is_empty(), "no flow of {outside} is passed on: {flows:?}");
        ensure!(passed_on.iter().all(|flow| flow["replyPackets"] == 0), "{passed_on:?}");
    }
    // The client learns that segments must be smaller to be wrapped.
    for family in Family::ALL {
        let to = service.on_node(world.home.name, family, Way::TCP)?;
        let path = format!("length/{}", "u".repeat(200_000));
        let length = eventually(PATIENCE, || answer(&space, &Way::TCP.ask(to, &path)))
            .with_context(|| format!("{family} upload"))?;
        ensure!(length == (path.len() + 1).to_string(), "{family}: {length} bytes arrived");
    }
    // A backend that is a node itself.
    let spec = json!({"type": "NodePort", "ports": web_ports(9081)});
    let mut on_host = Temporary::new(world, "direct-host", "hostnet-other", &spec)?;
    on_host.patch(&dsr)?;
    everywhere(|family, way| seen_by(&on_host, world.home.name, family, way))
}

fn node_port_empty(world: &World) -> Result<()> {
    let service = Temporary::new(world, "nodeport-empty", "nobody", &json!({"type": "NodePort"}))?;
    let space = world.space(OUTSIDE)?;
    everywhere(|family, way| {
        if way.is_udp() && !way.is_connected() {
            return Ok(());
        }
        expect_rejection(
            &space,
            &way.ask(service.on_node(world.home.name, family, way)?, "hostname"),
        )
    })
}

/// Makes the client outside send these addresses to a node.
fn route_outside(world: &World, addresses: [&str; 2]) -> Result<[IpAddr; 2]> {
    let via = world.home.address();
    let [v4, v6] = addresses;
    world.space(OUTSIDE)?.ip(&format!(
        "route replace {v4}/32 via {}\nroute replace {v6}/128 via {}\n",
        via.v4, via.v6
    ))?;
    Ok([v4.parse()?, v6.parse()?])
}

fn external_ip(world: &World) -> Result<()> {
    let addresses = route_outside(world, EXTERNAL)?;
    let _service = Temporary::new(world, "external", "web", &json!({"externalIPs": EXTERNAL}))?;
    everywhere(|family, way| {
        let to = SocketAddr::new(addresses[usize::from(family == Family::V6)], 80);
        for client in [OUTSIDE, CLIENT, world.home.name] {
            answered(&*world.space(client)?, to, way)?;
        }
        Ok(())
    })
}

fn load_balancer(world: &World) -> Result<()> {
    let addresses = route_outside(world, VIP)?;
    let ranges = |v4: &str, v6: &str| json!({"spec": {"loadBalancerSourceRanges": [v4, v6]}});
    let mut service = Temporary::new(world, "balanced", "web", &json!({"type": "LoadBalancer"}))?;
    service.patch(&json!({
        "status": {"loadBalancer": {"ingress": VIP.map(|ip| json!({"ip": ip}))}}
    }))?;
    let at = |family| SocketAddr::new(addresses[usize::from(family == Family::V6)], 80);
    everywhere(|family, way| {
        for client in [OUTSIDE, CLIENT, world.home.name] {
            answered(&*world.space(client)?, at(family), way)?;
        }
        Ok(())
    })?;
    let outside = world.space(OUTSIDE)?;
    service.patch(&ranges("192.0.2.0/24", "2001:db8:1::/48"))?;
    everywhere(|family, way| expect_silence(&outside, &way.ask(at(family), "hostname")))?;
    let [own4, own6] = world.lab.topology().outside.both();
    service.patch(&ranges(&format!("{own4}/32"), &format!("{own6}/128")))?;
    everywhere(|family, way| answered(&outside, at(family), way))?;
    let inside = [world.space(CLIENT)?, world.space(world.home.name)?];
    let silence = |family, way: Way| {
        let ask = way.ask(at(family), "hostname");
        inside.iter().try_for_each(|space| dropped(space, &ask))
    };
    everywhere(silence)?;
    // Who may not come is not told either that nobody serves.
    service.patch(&json!({"spec": {"selector": {"app": "nobody"}}}))?;
    everywhere(|family, way| {
        let ask = way.ask(at(family), "hostname");
        if way.is_connected() { expect_rejection(&outside, &ask) } else { Ok(()) }
    })?;
    everywhere(silence)
}

fn internal_local(world: &World) -> Result<()> {
    let policy = json!({"internalTrafficPolicy": "Local"});
    let service = Temporary::new(world, "internal-local", "other", &policy)?;
    let pod = format!("web-{}-1", world.away.short());
    let near = [world.space(&pod)?, world.space(world.away.name)?];
    let far = [world.space(CLIENT)?, world.space(world.home.name)?];
    everywhere(|family, way| {
        let ask = way.ask(service.service.at(family, 80)?, "hostname");
        near.iter().try_for_each(|space| expect_answer(space, &ask, "other"))?;
        far.iter().try_for_each(|space| dropped(space, &ask))
    })
}

/// Requires that nothing comes back; a process of the node may be told by its own send call.
fn dropped(space: &Space, ask: &lab::proto::Ask) -> Result<()> {
    let verdict = space.ask(&lab::proto::Ask { timeout_ms: 400, ..ask.clone() })?;
    let silent = matches!(verdict, Verdict::Timeout | Verdict::Errno(libc::EPERM));
    ensure!(silent, "from {} to {}: {verdict} instead of silence", space.name(), ask.to);
    Ok(())
}

fn affinity(world: &World) -> Result<()> {
    let policy = json!({"sessionAffinity": "ClientIP"});
    let service = Temporary::new(world, "affinity", "web", &policy)?;
    let pod = format!("web-{}-1", world.home.short());
    let clients = [world.space(CLIENT)?, world.space(&pod)?, world.space(world.home.name)?];
    everywhere(|family, way| {
        for space in &clients {
            let ask = way.ask(service.service.at(family, 80)?, "hostname");
            let counts = space.spread(&ask, 20)?;
            let one = counts.len() == 1 && counts.keys().all(|verdict| verdict.answer().is_some());
            ensure!(one, "from {}: {counts:?}", space.name());
        }
        Ok(())
    })
}

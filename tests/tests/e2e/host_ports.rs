//! Host ports of pods, alone and beside the rules of the portmap plugin.

use crate::world::{CLIENT, PATIENCE, Way, World, all, answer, expect_answer};
use anyhow::{Context as _, Result, ensure};
use lab::{
    manifest::{HostPort, POD_PORT, PodSpec},
    proto::Proto,
    proxy::Kind,
    suite::{Cases, eventually},
    topology::{Family, OUTSIDE},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

/// The host port of most cases.
const PORT: u16 = 54_321;
/// That of the upstream test "validates that there is no conflict between pods with same hostPort
/// but different hostIP and protocol".
const UPSTREAM: u16 = 54_323;

pub(crate) fn run(suite: &mut Cases<'_>, world: &World) {
    // kube-proxy has no part in host ports.
    if !world.kind.is_datapath() {
        return;
    }
    suite.case("host_port::from_everywhere", || from_everywhere(world));
    suite.case("host_port::same_port_other_address_and_protocol", || upstream(world));
    suite.case("host_port::ends_with_its_pod", || ends_with_its_pod(world));
    suite.case("host_port::outlives_the_agent", || outlives_the_agent(world));
    suite.case("host_port::beside_portmap", || beside_portmap(world));
    suite.case("host_port::node_port_comes_first", || node_port_comes_first(world));
}

/// A pod `NAME` on the client's node with these host ports.
fn create(world: &World, name: &str, host_ports: &[HostPort]) -> Result<()> {
    let spec = PodSpec::new(name, world.home, name).with_host_ports(host_ports);
    world.lab.create_pod(spec).map(drop)
}

fn host_port(address: Option<IpAddr>, port: u16, proto: Proto) -> HostPort {
    HostPort { address, port, target: POD_PORT, proto }
}

/// Both protocols on all addresses.
fn anywhere() -> [HostPort; 2] {
    [Proto::Tcp, Proto::Udp].map(|proto| host_port(None, PORT, proto))
}

fn on_home(world: &World, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.home.address().get(family), port)
}

/// The loopback addresses serve host ports where the socket hooks are on.
fn loopback(world: &World, family: Family, port: u16) -> Option<SocketAddr> {
    let Kind::Datapath { socket_lb: true, .. } = world.kind else { return None };
    Some(match family {
        Family::V4 => (Ipv4Addr::LOCALHOST, port).into(),
        Family::V6 => (Ipv6Addr::LOCALHOST, port).into(),
    })
}

fn from_everywhere(world: &World) -> Result<()> {
    create(world, "hp", &anywhere())?;
    let result = reached_from_everywhere(world, "hp");
    world.lab.delete_pod("hp")?;
    result
}

/// The pod answers every client, and sees the addresses of those that are not the node itself.
fn reached_from_everywhere(world: &World, pod: &str) -> Result<()> {
    let clients = [OUTSIDE, CLIENT, "other", pod, world.home.name, world.away.name];
    let mut checks = Vec::new();
    for family in Family::ALL {
        for way in Way::ALL {
            for client in clients {
                let to = on_home(world, family, PORT);
                checks.push(reached(world, client, to, way, pod));
            }
            if let Some(to) = loopback(world, family, PORT) {
                checks.push(reached(world, world.home.name, to, way, pod));
            }
        }
        for (client, own) in [
            (OUTSIDE, world.lab.topology().outside),
            (CLIENT, world.lab.pod(CLIENT)?.address),
            ("other", world.lab.pod("other")?.address),
        ] {
            let seen = answer(
                &*world.space(client)?,
                &Way::TCP.ask(on_home(world, family, PORT), "clientip"),
            );
            checks.push(seen.and_then(|seen| {
                let seen: SocketAddr = seen.parse()?;
                ensure!(seen.ip() == own.get(family), "{client} is seen as {seen}");
                Ok(())
            }));
        }
    }
    all(checks)
}

fn reached(world: &World, client: &str, to: SocketAddr, way: Way, pod: &str) -> Result<()> {
    let space = world.space(client)?;
    eventually(PATIENCE, || expect_answer(&space, &way.ask(to, "hostname"), pod))
        .with_context(|| format!("{way} from {client} to {to}"))
}

/// As upstream: three pods with one port, told apart by address and by protocol.
fn upstream(world: &World) -> Result<()> {
    let node = world.home.address().v4;
    let pods = [
        ("hp1", host_port(Some(Ipv4Addr::LOCALHOST.into()), UPSTREAM, Proto::Tcp)),
        ("hp2", host_port(Some(node.into()), UPSTREAM, Proto::Tcp)),
        ("hp3", host_port(Some(node.into()), UPSTREAM, Proto::Udp)),
    ];
    for (name, host_port) in &pods {
        create(world, name, std::slice::from_ref(host_port))?;
    }
    let on_node = SocketAddr::new(node.into(), UPSTREAM);
    let mut checks = Vec::new();
    for client in [world.home.name, OUTSIDE, CLIENT, "other"] {
        checks.push(reached(world, client, on_node, Way::TCP, "hp2"));
        checks.push(reached(world, client, on_node, Way::UDP, "hp3"));
    }
    if let Some(to) = loopback(world, Family::V4, UPSTREAM) {
        checks.push(reached(world, world.home.name, to, Way::TCP, "hp1"));
        let url = format!("http://{to}/hostname");
        let home = world.space(world.home.name)?;
        let arguments = ["-s", "--max-time", "5", "--interface", &node.to_string(), &url];
        let output = home.output("curl", &arguments);
        checks.push(output.and_then(|output| {
            ensure!(output == "hp1", "curl --interface {node} {url}: {output}");
            Ok(())
        }));
    }
    for (name, _) in &pods {
        world.lab.delete_pod(name)?;
    }
    all(checks)
}

/// The port is closed when the pod is gone, and the next pod may have it.
fn ends_with_its_pod(world: &World) -> Result<()> {
    create(world, "hp-first", &anywhere())?;
    let clients = [OUTSIDE, CLIENT, world.home.name];
    let to = on_home(world, Family::V4, PORT);
    for client in clients {
        reached(world, client, to, Way::TCP, "hp-first")?;
    }
    let space = world.space(OUTSIDE)?;
    let socket = space.open(&Way::UDP.ask(to, "hostname"))?;
    let socket = socket.map_err(|verdict| anyhow::anyhow!("{verdict}"))?;
    ensure!(socket.ask("hostname")?.answer() == Some("hp-first"), "no answer at first");
    world.lab.delete_pod("hp-first")?;
    all(clients.map(|client| {
        let space = world.space(client)?;
        eventually(PATIENCE, || {
            let verdict = space.ask(&Way::TCP.ask(to, "hostname"))?;
            ensure!(verdict.is_rejection(), "from {client}: {verdict}");
            Ok(())
        })
    }))?;
    create(world, "hp-second", &anywhere())?;
    let result = all(clients.map(|client| reached(world, client, to, Way::TCP, "hp-second")));
    let moved = eventually(PATIENCE, || {
        let verdict = socket.ask_within("hostname", Duration::from_millis(200))?;
        ensure!(verdict.answer() == Some("hp-second"), "the open socket: {verdict}");
        Ok(())
    });
    world.lab.delete_pod("hp-second")?;
    result.and(moved)
}

/// Neither the agent's death nor its return interrupts what is there.
fn outlives_the_agent(world: &World) -> Result<()> {
    create(world, "hp-stays", &anywhere())?;
    reached(world, OUTSIDE, on_home(world, Family::V4, PORT), Way::TCP, "hp-stays")?;
    let node = world.lab.node(world.home.name)?;
    let space = world.space(OUTSIDE)?;
    let load =
        space.load_start(&Way::TCP.ask(on_home(world, Family::V4, PORT), "hostname"), 200, 2)?;
    world.lab.take_proxy(node)?.kill()?;
    thread::sleep(Duration::from_millis(200));
    world.lab.start_proxy(node, world.kind)?;
    world.lab.wait_proxy(node)?;
    thread::sleep(Duration::from_millis(500));
    let report = space.load_stop(load)?;
    world.lab.delete_pod("hp-stays")?;
    ensure!(report.failures.is_empty() && report.answered > 0, "{report:?}");
    Ok(())
}

/// The rules of the plugin do not get in the way.
fn beside_portmap(world: &World) -> Result<()> {
    create(world, "hp-map", &anywhere())?;
    let home = world.space(world.home.name)?;
    let pod = world.lab.pod("hp-map")?.address;
    let mut checks = Vec::new();
    for (program, address, len) in
        [("iptables-restore", IpAddr::from(pod.v4), 24), ("ip6tables-restore", pod.v6.into(), 64)]
    {
        let rules = world.lab.folder().join(format!("portmap-{program}"));
        std::fs::write(&rules, portmap_rules(address, len))?;
        checks.push(home.output(program, &[rules.as_os_str()]).map(drop));
    }
    checks.push(reached_from_everywhere(world, "hp-map"));
    home.output("nft", &["flush", "ruleset"])?;
    checks.push(reached_from_everywhere(world, "hp-map").context("after the rules went"));
    world.lab.delete_pod("hp-map")?;
    all(checks)
}

/// What the plugin writes for a pod with [`anywhere`].
fn portmap_rules(pod: IpAddr, len: u8) -> String {
    let (to, local) = match pod {
        IpAddr::V4(_) => (SocketAddr::new(pod, POD_PORT), "127.0.0.1/32"),
        IpAddr::V6(_) => (SocketAddr::new(pod, POD_PORT), "::1/128"),
    };
    let chain = "CNI-DN-0123456789abcdef0";
    let of_port = ["tcp", "udp"].map(|proto| {
        format!(
            "-A CNI-HOSTPORT-DNAT -p {proto} -m multiport --dports {PORT} -j {chain}\n\
             -A {chain} -s {pod}/{len} -p {proto} --dport {PORT} -j CNI-HOSTPORT-SETMARK\n\
             -A {chain} -s {local} -p {proto} --dport {PORT} -j CNI-HOSTPORT-SETMARK\n\
             -A {chain} -p {proto} --dport {PORT} -j DNAT --to-destination {to}\n"
        )
    });
    format!(
        "*nat\n\
         :CNI-HOSTPORT-DNAT - [0:0]\n\
         :CNI-HOSTPORT-SETMARK - [0:0]\n\
         :CNI-HOSTPORT-MASQ - [0:0]\n\
         :{chain} - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A POSTROUTING -j CNI-HOSTPORT-MASQ\n\
         -A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000\n\
         -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n\
         {}COMMIT\n",
        of_port.concat()
    )
}

/// A node port takes the port over on the addresses that it is served on, and gives it back.
fn node_port_comes_first(world: &World) -> Result<()> {
    const NODE_PORT: u16 = 31_321;
    create(world, "hp-late", &[host_port(None, NODE_PORT, Proto::Tcp)])?;
    let to = on_home(world, Family::V4, NODE_PORT);
    reached(world, OUTSIDE, to, Way::TCP, "hp-late")?;
    let spec = serde_json::json!({
        "type": "NodePort", "selector": {"app": "other"},
        "ports": [{"port": 80, "targetPort": POD_PORT, "nodePort": NODE_PORT}],
    });
    world.lab.create_service("hp-node-port", &spec)?;
    let taken = reached(world, OUTSIDE, to, Way::TCP, "other");
    world.lab.delete_service("hp-node-port")?;
    let back = reached(world, OUTSIDE, to, Way::TCP, "hp-late");
    world.lab.delete_pod("hp-late")?;
    taken.and(back)
}

//! IP in IP with somebody else: a node of Calico's reference cluster is a virtual machine whose kernel
//! has the device `tunl0` and the routes that Calico's BGP daemon makes. The node that it talks to
//! runs our agent; nothing else is in the cluster.

mod initramfs;
mod vm;

use anyhow::{Context as _, Result, ensure};
use lab::{
    Lab, Pod, host,
    manifest::POD_PORT,
    proto::{Ask, Op, Outcome, Proto},
    proxy::{self, Kind},
    space::{Space, request},
    suite::{self, Suite, eventually},
    topology::{BRIDGE, CALICO},
};
use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use vm::Vm;

/// The pod of the machine: the first address of the block of the node that it is.
const POD: Ipv4Addr = Ipv4Addr::new(172, 16, 184, 1);
/// Where its server listens.
const PORT: u16 = 8080;
/// What is transferred.
const BYTES: u64 = 100 << 20;
/// Bytes of the IP packet of a ping.
const PING: u64 = 84;
/// How long anything but a transfer may take, on a busy host.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a transfer may take.
const TRANSFER: Duration = Duration::from_mins(5);

fn main() -> ExitCode {
    suite::main("interop", unable, run)
}

/// Why the suite cannot run here. It needs no control plane.
fn unable() -> Option<String> {
    host::missing()
        .or_else(vm::missing)
        .or_else(|| proxy::datapath_binary().err().map(|error| error.to_string()))
}

fn run(suite: &mut Suite) -> Result<()> {
    // A machine that is slow beyond all patience gets a second try, as a case does.
    let pair = Pair::up().or_else(|error| {
        tracing::warn!(error = format!("{error:#}"), "once more");
        Pair::up()
    })?;
    suite.group("interop");
    let renew = || Ok(());
    let mut cases = suite.cases(&renew);
    cases.case("pings_pass_one_router_each_way", || pair.pings());
    cases.case("both_directions_are_ip_in_ip_on_the_wire", || pair.on_the_wire());
    cases.case("datagrams_and_errors_find_back", || pair.errors());
    cases.case("the_largest_packet_and_fragments_pass", || pair.sizes());
    cases.case("a_hundred_megabytes_arrive_intact", || pair.transfers());
    Ok(())
}

/// A node of ours with a pod, and the machine.
struct Pair {
    machine: RefCell<Vm>,
    pod: Arc<Pod>,
    lab: Lab,
}

impl Pair {
    fn up() -> Result<Self> {
        let lab = Lab::builder().topology(&CALICO).pods_per_node(1).source_mode().up()?;
        let [_, ours, theirs, _] = &CALICO.nodes;
        // The machine takes the place of the node's namespace on their network.
        let bridge = lab.space(BRIDGE)?;
        bridge.ip(&format!(
            "link set p-{} nomaster down\n\
             tuntap add dev vm mode tap\n\
             link set vm mtu {} master br0 up\n",
            theirs.short(),
            CALICO.mtu
        ))?;
        let [block, _] = ours.pod_ranges();
        let setup = format!(
            "ip link set lo up\n\
             ip addr add {POD}/32 dev lo\n\
             ip addr add {own}/24 dev eth0\n\
             ip link set eth0 mtu {mtu} up\n\
             ip addr add 172.16.184.0/32 dev tunl0\n\
             ip link set tunl0 mtu {tunnel} up\n\
             ip route add {block} via {via} dev tunl0 proto 12 onlink src {POD}\n\
             mkdir -p /www/bytes/{BYTES}\n\
             httpd -p {PORT} -h /www\n",
            own = theirs.address().v4,
            via = ours.address().v4,
            mtu = CALICO.mtu,
            tunnel = CALICO.pod_mtu,
        );
        let machine = Vm::start(&bridge, "vm", &lab.folder().join("vm"), &setup)?;
        let node = lab.node(ours.name)?;
        lab.start_proxy(node, Kind::datapath(true, "ipip"))?;
        lab.wait_proxy(node)?;
        let pod = lab.pod(&format!("web-{}-1", ours.short()))?;
        Ok(Self { machine: RefCell::new(machine), pod, lab })
    }

    fn space(&self) -> &Arc<Space> {
        &self.pod.space
    }

    fn vm(&self, command: &str) -> Result<String> {
        self.machine.borrow_mut().run(command, PATIENCE)
    }

    /// A ping from the pod; what it printed.
    fn ping(&self, more: &[&str]) -> Result<String> {
        let to = POD.to_string();
        let args = [&["-n", "-c", "1", "-W", "5"], more, &[&to]].concat();
        self.space().output("ping", &args)
    }

    /// A ping from the machine.
    fn ping_back(&self, more: &str) -> Result<String> {
        self.vm(&format!("ping -c 1 -W 5 -I {POD} {more} {}", self.pod.address.v4))
    }

    /// Our node takes one from the time to live; the machine's pod is the machine itself.
    fn pings(&self) -> Result<()> {
        let there = eventually(PATIENCE, || self.ping(&[]))?;
        ensure!(there.contains("ttl=63"), "{there}");
        let back = eventually(PATIENCE, || self.ping_back(""))?;
        ensure!(back.contains("ttl=63"), "{back}");
        Ok(())
    }

    fn on_the_wire(&self) -> Result<()> {
        let node = self.lab.node(self.pod.spec.node.name)?;
        let (own, there) = (node.spec.address().v4, CALICO.nodes[2].address().v4);
        let mut capture = node
            .space
            .command("tcpdump")?
            .args(["-n", "-l", "-v", "-i", "eth0", "-c", "4", "ip proto 4"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start tcpdump")?;
        let deadline = Instant::now() + PATIENCE;
        while capture.try_wait()?.is_none() {
            if Instant::now() > deadline {
                capture.kill()?;
            }
            self.ping(&[])?;
        }
        let seen = capture.wait_with_output()?;
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        for (from, to) in [(own, there), (there, own)] {
            let outer = seen.contains(&format!("{from} > {to}: "));
            ensure!(outer && seen.contains("IPIP (4)"), "no packet from {from} to {to}: {seen}");
        }
        eventually(PATIENCE, || {
            let before = proxy::tunnel_counters(node, there)?;
            self.ping(&[])?;
            let after = proxy::tunnel_counters(node, there)?;
            let grown = [0, 1, 2, 3].map(|index| after[index] - before[index]);
            ensure!(grown == [1, PING, 1, PING], "the counters grew by {grown:?}");
            Ok(())
        })
    }

    /// UDP to ports where nobody listens: the error about it must find its way, and the right socket.
    fn errors(&self) -> Result<()> {
        let to = SocketAddr::new(POD.into(), 9);
        let ask = Ask { connected: true, ..request(Proto::Udp, to, "hostname") };
        eventually(PATIENCE, || {
            let verdict = self.space().ask(&ask)?;
            ensure!(verdict.is_rejection(), "the pod was told {verdict}");
            Ok(())
        })?;
        let pod = self.pod.address.v4;
        eventually(PATIENCE, || {
            let command = format!("traceroute -n -q 1 -w 5 -m 3 -s {POD} {pod}");
            let route = self.vm(&command)?;
            let last = route.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
            ensure!(
                last.trim_start().starts_with("2 ") && last.contains(&pod.to_string()),
                "{route}"
            );
            Ok(())
        })
    }

    fn sizes(&self) -> Result<()> {
        let payload = CALICO.pod_mtu - 28;
        let whole = payload.to_string();
        eventually(PATIENCE, || self.ping(&["-M", "do", "-s", &whole]))?;
        eventually(PATIENCE, || self.ping_back(&format!("-s {payload}")))?;
        // In fragments, each of them in a packet of its own.
        eventually(PATIENCE, || self.ping(&["-s", "20000"]))?;
        eventually(PATIENCE, || self.ping_back("-s 20000"))?;
        self.space().ip(&format!("link set eth0 mtu {}\n", CALICO.mtu))?;
        let told = self.ping(&["-M", "do", "-s", &(payload + 1).to_string()]);
        self.space().ip(&format!("link set eth0 mtu {}\n", CALICO.pod_mtu))?;
        let told = told.err().context("more than the tunnel holds was answered")?.to_string();
        let size = CALICO.pod_mtu;
        ensure!(
            told.contains(&format!("mtu = {size}")) || told.contains(&format!("mtu={size}")),
            "{told}"
        );
        Ok(())
    }

    /// The machine fetches a known pattern from the pod, and the pod fetches it back and compares every
    /// byte.
    fn transfers(&self) -> Result<()> {
        let file = format!("/bytes/{BYTES}/0");
        let from = SocketAddr::new(IpAddr::V4(self.pod.address.v4), POD_PORT);
        let fetch = format!("wget -q -O /www{file} http://{from}{file} && wc -c </www{file}");
        let length = self.machine.borrow_mut().run(&fetch, TRANSFER)?;
        ensure!(length.trim() == BYTES.to_string(), "{length} bytes came to the machine");
        let to = SocketAddr::new(POD.into(), PORT);
        let outcome = self.space().call(Op::Transfer { to, bytes: BYTES, millis: 0 }, TRANSFER)?;
        let Outcome::Verdict(verdict) = outcome else {
            anyhow::bail!("unexpected outcome {outcome:?}")
        };
        ensure!(verdict.answer().is_some(), "back from the machine: {verdict}");
        Ok(())
    }
}

//! A node made of nothing but its loaded programs and maps: packets go in by `BPF_PROG_TEST_RUN`,
//! verdicts and packets come out.

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions, TestRunResult,
    maps::{
        Array, HashMap, MapData, PerCpuArray, PerCpuHashMap,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{Program, ProgramError},
};
use datapath_common::{
    Addr, Address, AddressKind, Backend, BackendList, Be16, Config, ConfigFlags, Flow, Frontend,
    FrontendFlags, FrontendKey, FrontendKind, LpmKey, MemberKey, Outcome, Protocol, Route,
    RouteKind, SlotKey, Timeouts, TunnelStats, Tuple, tunnel_overhead,
};
use nix::sched::{CloneFlags, unshare};
use std::{
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Makes a type of the map ABI one that aya takes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Abi<T>(pub(crate) T);

// SAFETY: `bytemuck::Pod` promises all that aya's trait asks for.
unsafe impl<T: bytemuck::Pod> Pod for Abi<T> {}

/// The tc hooks by their programs' names.
pub(crate) const FROM_POD: &str = "from_pod";
pub(crate) const TO_POD: &str = "to_pod";
pub(crate) const FROM_UPLINK: &str = "from_uplink";
pub(crate) const TO_UPLINK: &str = "to_uplink";
/// The XDP program, by its name.
pub(crate) const XDP_UPLINK: &str = "xdp_uplink";

/// What a program returned, by the kernel's name for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// `TCX_NEXT`.
    Next,
    /// `TC_ACT_SHOT`.
    Drop,
    /// `TC_ACT_REDIRECT`.
    Redirect,
    /// `XDP_PASS`.
    Pass,
    /// `XDP_TX`.
    Turned,
}

/// The addresses of the node under test: worker 1 of the reference cluster.
pub(crate) const NODE: &str = "172.18.0.3";
pub(crate) const NODE6: &str = "fc00:f853:ccd:e793::3";
pub(crate) const GATEWAY: &str = "10.10.3.1";
pub(crate) const GATEWAY6: &str = "fd00:10:10:3::1";
/// Index of the loopback device, for which test runs take place.
pub(crate) const DEVICE: u32 = 1;
/// Index of the uplink that frames come by to the XDP program, see [`UPLINK_LINES`].
pub(crate) const UPLINK: u32 = 7;
/// The uplink of the node under test with its neighbours and routes, for [`network`].
pub(crate) const UPLINK_LINES: &str = "\
    link add uplink index 7 address 02:00:00:00:01:03 type veth peer name wire\n\
    link set wire up\n\
    link set uplink up\n\
    addr add 172.18.0.3/16 dev uplink\n\
    addr add fc00:f853:ccd:e793::3/64 dev uplink nodad\n\
    neigh add 172.18.0.1 lladdr 02:00:00:00:01:01 dev uplink\n\
    neigh add 172.18.0.2 lladdr 02:00:00:00:01:02 dev uplink\n\
    neigh add 172.18.0.5 lladdr 02:00:00:00:01:05 dev uplink\n\
    neigh add 172.18.0.100 lladdr 02:00:00:00:01:64 dev uplink\n\
    neigh add fc00:f853:ccd:e793::1 lladdr 02:00:00:00:01:01 dev uplink\n\
    neigh add fc00:f853:ccd:e793::5 lladdr 02:00:00:00:01:05 dev uplink\n\
    route add 10.10.1.0/24 via 172.18.0.5\n\
    route add fd00:10:10:1::/64 via fc00:f853:ccd:e793::5\n\
    route add default via 172.18.0.1\n\
    route add default via fc00:f853:ccd:e793::1\n";

/// The head of the kernel's `struct __sk_buff`, length, type and mark, for a packet that we have sent on
/// ourselves.
const MARKED: [u8; 12] = {
    let [a, b, c, d] = 0x000d_a7a0_u32.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
};

pub(crate) struct Node {
    ebpf: Ebpf,
}

impl Node {
    /// Loads the programs. `None`, with the reason printed, where that cannot be done.
    pub(crate) fn load() -> Option<Self> {
        if !nix_is_root() {
            eprintln!("skipped: loading programs needs root");
            return None;
        }
        let Ok(object) = std::fs::read(object()) else {
            eprintln!("skipped: {} is not built: cargo xtask build-ebpf", object().display());
            return None;
        };
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", 65_536)
            .load(&object)
            .expect("the object file loads");
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                Program::Xdp(program) => program.load(),
                other => panic!("{name}: unexpected type {:?}", other.prog_type()),
            };
            if let Err(error) = loaded {
                panic!("{name}: {error:?}");
            }
        }
        let mut node = Self { ebpf };
        node.configure(ConfigFlags::NATIVE_ROUTING.with(ConfigFlags::LOCAL_DETECTOR));
        Some(node)
    }

    /// How many instructions the verifier looked at, program by program.
    pub(crate) fn verified(&self) -> Vec<(String, u32)> {
        let count = |program: &Program| {
            program.info().ok().and_then(|info| info.verified_instruction_count()).unwrap_or(0)
        };
        let mut all: Vec<_> =
            self.ebpf.programs().map(|(name, program)| (name.to_owned(), count(program))).collect();
        all.sort();
        all
    }

    /// The version of the compiler that made the programs, as it says in their debug information.
    pub(crate) fn compiler() -> String {
        const MARK: &[u8] = b"rustc version ";
        let object = std::fs::read(object()).expect("the object file");
        let start = object.windows(MARK.len()).position(|window| window == MARK);
        let version = &object[start.expect("the compiler has left its name") + MARK.len()..];
        let end = version.iter().position(|byte| *byte <= b' ').unwrap_or_default();
        String::from_utf8_lossy(&version[..end]).into_owned()
    }

    pub(crate) fn configure(&mut self, flags: ConfigFlags) {
        let config = Config {
            host_netns: 0,
            node_v4: addr(NODE),
            node_v6: addr(NODE6),
            uplink: DEVICE,
            flags,
            port_min: 61_000,
            port_max: 65_535,
            uplink_mac: [2, 0, 0, 0, 0, 3],
            pad: [0; 2],
            timeouts: Timeouts::DEFAULT,
        };
        let map = self.ebpf.map_mut("CONFIG").expect("CONFIG");
        Array::<_, Abi<Config>>::try_from(map)
            .expect("an array")
            .set(0, Abi(config), 0)
            .expect("set");
    }

    /// Changes the configuration in place.
    pub(crate) fn change_config(&mut self, change: impl FnOnce(&mut Config)) {
        let map = self.ebpf.map_mut("CONFIG").expect("CONFIG");
        let mut map = Array::<_, Abi<Config>>::try_from(map).expect("an array");
        let mut config = map.get(&0, 0).expect("the configuration").0;
        change(&mut config);
        map.set(0, Abi(config), 0).expect("set");
    }

    pub(crate) fn hash<K: bytemuck::Pod, V: bytemuck::Pod>(
        &mut self,
        name: &str,
    ) -> HashMap<&mut MapData, Abi<K>, Abi<V>> {
        HashMap::try_from(self.ebpf.map_mut(name).expect("a map of this name")).expect("a hash map")
    }

    fn put<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, name: &str, key: K, value: V) {
        self.hash(name).insert(Abi(key), Abi(value), 0).expect("an entry is written");
    }

    /// A pod of this node.
    pub(crate) fn pod(&mut self, pod: &str) {
        let v4 = addr(pod).is_v4();
        let gateway = addr(if v4 { GATEWAY } else { GATEWAY6 });
        let value =
            Address { gateway, device: DEVICE, mac: [0; 6], kind: AddressKind::POD, flags: 0 };
        self.put("ADDRESSES", addr(pod), value);
    }

    /// A pod of this node whose gateway has no address of its own, as Calico connects pods.
    pub(crate) fn pod_without_gateway(&mut self, pod: &str) {
        self.pod(pod);
        let mut map = self.hash::<Addr, Address>("ADDRESSES");
        let mut value = map.get(&Abi(addr(pod)), 0).expect("the pod").0;
        value.gateway = addr(pod).wildcard();
        map.insert(Abi(addr(pod)), Abi(value), 0).expect("an entry is written");
    }

    /// An address of the node itself.
    pub(crate) fn host(&mut self, host: &str) {
        let value = Address {
            gateway: Addr::UNSPECIFIED_V6,
            device: 0,
            mac: [0; 6],
            kind: AddressKind::HOST,
            flags: Address::NODE_PORT,
        };
        self.put("ADDRESSES", addr(host), value);
    }

    /// An address that this node has no more.
    pub(crate) fn remove_address(&mut self, address: &str) {
        self.hash::<Addr, Address>("ADDRESSES").remove(&Abi(addr(address))).expect("the address");
    }

    /// Pods of another node, straight; or another range.
    pub(crate) fn route(&mut self, range: &str, prefix: u8, kind: RouteKind, next_hop: &str) {
        let value = Route { next_hop: addr(next_hop), device: DEVICE, mtu: 1500, kind, pad: 0 };
        self.prefix("ROUTES", LpmKey::new(addr(range), prefix), value);
    }

    /// Another node and its pods, behind a tunnel.
    pub(crate) fn tunnel(&mut self, node: &str, ranges: &[(&str, u8)]) {
        let mtu = 1500 - tunnel_overhead(addr(node));
        let kind = RouteKind::PEER;
        let peer = Route { next_hop: addr(node), device: 0, mtu: 0, kind, pad: 0 };
        let length = if addr(node).is_v4() { 32 } else { 128 };
        self.prefix("ROUTES", LpmKey::new(addr(node), length), peer);
        for (range, prefix) in ranges {
            let kind = RouteKind::TUNNEL;
            let value = Route { device: DEVICE, mtu, kind, ..peer };
            self.prefix("ROUTES", LpmKey::new(addr(range), *prefix), value);
        }
    }

    /// What went through the tunnels of a node.
    pub(crate) fn tunnel_stats(&self, node: &str) -> TunnelStats {
        let map = self.ebpf.map("TUNNELS").expect("TUNNELS");
        let map = PerCpuHashMap::<_, Abi<Addr>, Abi<TunnelStats>>::try_from(map).expect("a map");
        let Ok(values) = map.get(&Abi(addr(node)), 0) else { return TunnelStats::default() };
        values.iter().fold(TunnelStats::default(), |sum, Abi(one)| TunnelStats {
            sent_packets: sum.sent_packets + one.sent_packets,
            sent_bytes: sum.sent_bytes + one.sent_bytes,
            received_packets: sum.received_packets + one.received_packets,
            received_bytes: sum.received_bytes + one.received_bytes,
        })
    }

    /// Sources that count as pods.
    pub(crate) fn local_clients(&mut self, range: &str, prefix: u8) {
        self.prefix("LOCAL_CLIENTS", LpmKey::new(addr(range), prefix), 0_u8);
    }

    /// A range outside of the cluster to which pods keep their own address.
    pub(crate) fn non_masquerade(&mut self, range: &str, prefix: u8) {
        self.prefix("NON_MASQUERADE", LpmKey::new(addr(range), prefix), 0_u8);
    }

    /// A device whose clients count as pods, where devices decide.
    pub(crate) fn local_device(&mut self, device: u32) {
        self.put("LOCAL_DEVICES", device, 0_u8);
    }

    fn prefix<V: bytemuck::Pod>(&mut self, name: &str, key: LpmKey, value: V) {
        let key = Key::new(key.prefix_len, Abi(key.addr.0));
        self.trie(name).insert(&key, Abi(value), 0).expect("an entry is written");
    }

    /// A service with one frontend and the given backends; ids and list follow `service`.
    pub(crate) fn service(
        &mut self,
        service: u32,
        frontend: (&str, u16, Protocol),
        backends: &[(&str, u16)],
    ) {
        let (vip, port, protocol) = frontend;
        let list = BackendList { id: service, count: backends.len() as u32 };
        for (index, (backend, backend_port)) in (0..).zip(backends) {
            let id = service * 100 + index;
            self.put_backend(id, backend, *backend_port, protocol, service);
            self.put("SLOTS", SlotKey { list: service, index }, id);
            self.put("MEMBERS", MemberKey { list: service, backend: id }, 0_u8);
        }
        let key = FrontendKey::new(addr(vip), Be16::new(port), protocol);
        let value = Frontend {
            service,
            inside: list,
            outside: list,
            affinity: 0,
            flags: FrontendFlags::MASQUERADE_OUTSIDE,
            kind: FrontendKind::CLUSTER_IP,
            pad: 0,
        };
        self.put("FRONTENDS", key, value);
        self.put(
            "FRONTENDS",
            FrontendKey::any_port(addr(vip)),
            Frontend {
                service: 0,
                inside: BackendList::default(),
                outside: BackendList::default(),
                ..value
            },
        );
    }

    pub(crate) fn trie<K: bytemuck::Pod, V: bytemuck::Pod>(
        &mut self,
        name: &str,
    ) -> LpmTrie<&mut MapData, Abi<K>, Abi<V>> {
        LpmTrie::try_from(self.ebpf.map_mut(name).expect("a map of this name")).expect("a trie")
    }

    /// A port of the node that leads to a pod.
    pub(crate) fn host_port(
        &mut self,
        service: u32,
        frontend: (&str, u16, Protocol),
        pod: (&str, u16),
    ) {
        self.service(service, frontend, &[pod]);
        self.change_frontend(frontend, |frontend| {
            frontend.flags = FrontendFlags::default();
            frontend.kind = FrontendKind::HOST_PORT;
        });
        self.remove_any_port(frontend.0);
    }

    /// Takes the address of a frontend out of what is ours: ports that it does not serve are not
    /// rejected.
    pub(crate) fn remove_any_port(&mut self, vip: &str) {
        let key = FrontendKey::any_port(addr(vip));
        let mut map = self.hash::<FrontendKey, Frontend>("FRONTENDS");
        // Two services with one address share it.
        let _ = map.remove(&Abi(key));
    }

    /// A source that may use the frontends of a service with source ranges.
    pub(crate) fn source_range(&mut self, service: u32, range: &str, prefix: u8) {
        let LpmKey { prefix_len, addr } = LpmKey::new(addr(range), prefix);
        let [a, b, c, d] = addr.0;
        let key = Key::new(32 + prefix_len, Abi([service, a, b, c, d]));
        self.trie("SOURCE_RANGES").insert(&key, Abi(0_u8), 0).expect("an entry is written");
    }

    /// Removes a frontend.
    pub(crate) fn remove_frontend(&mut self, (vip, port, protocol): (&str, u16, Protocol)) {
        let key = FrontendKey::new(addr(vip), Be16::new(port), protocol);
        self.hash::<FrontendKey, Frontend>("FRONTENDS").remove(&Abi(key)).expect("the frontend");
    }

    /// Changes a frontend in place.
    pub(crate) fn change_frontend(
        &mut self,
        (vip, port, protocol): (&str, u16, Protocol),
        change: impl FnOnce(&mut Frontend),
    ) {
        let key = FrontendKey::new(addr(vip), Be16::new(port), protocol);
        let mut map = self.hash::<FrontendKey, Frontend>("FRONTENDS");
        let mut value = map.get(&Abi(key), 0).expect("the frontend").0;
        change(&mut value);
        map.insert(Abi(key), Abi(value), 0).expect("an entry is written");
    }

    pub(crate) fn put_backend(
        &mut self,
        id: u32,
        backend: &str,
        port: u16,
        protocol: Protocol,
        service: u32,
    ) {
        let value =
            Backend { addr: addr(backend), port: Be16::new(port), protocol, pad: 0, service };
        self.put("BACKENDS", id, value);
    }

    /// Empties `MEMBERS`: no remembered backend is in a list any more.
    pub(crate) fn clear_members(&mut self) {
        let mut map = self.hash::<MemberKey, u8>("MEMBERS");
        let keys: Vec<_> = map.keys().map(|key| key.expect("a key").0).collect();
        for key in keys {
            map.remove(&Abi(key)).expect("the entry");
        }
    }

    /// Removes a backend, as when its endpoint serves no more.
    pub(crate) fn remove_backend(&mut self, id: u32) {
        self.hash::<u32, Backend>("BACKENDS").remove(&Abi(id)).expect("the backend");
    }

    pub(crate) fn flows(&mut self) -> Vec<(Tuple, Flow)> {
        self.hash::<Tuple, Flow>("FLOWS")
            .iter()
            .map(|entry| entry.map(|(key, value)| (key.0, value.0)).expect("an entry"))
            .collect()
    }

    pub(crate) fn remove_flow(&mut self, tuple: &Tuple) {
        self.hash::<Tuple, Flow>("FLOWS").remove(&Abi(*tuple)).expect("the flow");
    }

    pub(crate) fn put_flow(&mut self, tuple: Tuple, flow: Flow) {
        self.put("FLOWS", tuple, flow);
    }

    /// Sum of the outcome's counter over all CPUs.
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        let map = self.ebpf.map("COUNTERS").expect("COUNTERS");
        let counters = PerCpuArray::<_, u64>::try_from(map).expect("a per-CPU array");
        counters.get(&(outcome as u32), 0).expect("a counter").iter().sum()
    }

    /// Sends a frame through a program.
    pub(crate) fn run(&mut self, program: &str, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.try_run(program, frame).expect("the program runs")
    }

    /// As [`run`](Self::run); `None` for a frame that the kernel does not even hand to programs.
    pub(crate) fn try_run(&mut self, program: &str, frame: &[u8]) -> Option<(Verdict, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        // The kernel's `struct xdp_md`: start and end of the frame, the device that it came by.
        let context: [u8; 24] = bytemuck::cast([0, frame.len() as u32, 0, UPLINK, 0, 0]);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: (program == XDP_UPLINK).then_some(&context),
            ..TestRunOptions::default()
        };
        let result = self.test_run(program, options).ok()?;
        out.truncate(result.data_size_out as usize);
        Some((verdict(program, &result), out))
    }

    /// Runs the sweep; returns how many entries it removed.
    pub(crate) fn sweep(&mut self) -> u32 {
        let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() };
        self.test_run("sweep", options).expect("the program runs").return_value
    }

    /// Sends a frame through a program, `times` in a row: what comes out goes in again. Returns how many
    /// nanoseconds it took there, on average.
    pub(crate) fn time(&mut self, program: &str, frame: &[u8], times: u32) -> (Verdict, u32) {
        let options =
            TestRunOptions { data_in: Some(frame), repeat: times, ..TestRunOptions::default() };
        let result = self.test_run(program, options).expect("the program runs");
        (verdict(program, &result), result.duration.as_nanos() as u32)
    }

    /// As [`run`](Self::run), for a packet that we have sent on ourselves, which its mark tells.
    pub(crate) fn run_marked(&mut self, program: &str, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&MARKED),
            ..TestRunOptions::default()
        };
        let result = self.test_run(program, options).expect("the program runs");
        out.truncate(result.data_size_out as usize);
        (verdict(program, &result), out)
    }

    /// As [`time`](Self::time), for a program that returns at once: a packet of ours.
    pub(crate) fn time_of_nothing(&mut self, frame: &[u8], times: u32) -> u32 {
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&MARKED),
            repeat: times,
            ..TestRunOptions::default()
        };
        let result = self.test_run(FROM_UPLINK, options).expect("the program runs");
        assert_eq!(verdict(FROM_UPLINK, &result), Verdict::Next);
        result.duration.as_nanos() as u32
    }

    fn test_run(
        &mut self,
        program: &str,
        options: TestRunOptions<'_>,
    ) -> Result<TestRunResult, ProgramError> {
        match self.ebpf.program(program).expect("a program of this name") {
            Program::SchedClassifier(program) => program.test_run(options),
            Program::Xdp(program) => program.test_run(options),
            other => panic!("{program}: unexpected type {:?}", other.prog_type()),
        }
    }
}

fn verdict(program: &str, result: &TestRunResult) -> Verdict {
    match result.return_value.cast_signed() {
        1 if program == XDP_UPLINK => Verdict::Drop,
        2 if program == XDP_UPLINK => Verdict::Pass,
        3 if program == XDP_UPLINK => Verdict::Turned,
        -1 => Verdict::Next,
        2 => Verdict::Drop,
        7 => Verdict::Redirect,
        other => panic!("{program} returned {other}"),
    }
}

pub(crate) fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

/// Gives this thread a network of its own, with a loopback device that forwards, and lets `ip` do
/// these lines: what the kernel's routing table answers to programs that this thread runs.
pub(crate) fn network(lines: &str) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/all/forwarding");
        std::fs::write(path, "1").expect("forwarding");
    }
    let lines = format!("link set lo up\n{lines}");
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program `ip`");
    ip.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("its input");
    assert!(ip.wait().expect("its end").success(), "{lines}");
}

fn nix_is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// The object file, at the place that the build names or leaves it.
fn object() -> PathBuf {
    std::env::var_os("DATAPATH_EBPF_OBJECT").map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../target/ebpf/bpfel-unknown-none/release/datapath-ebpf")
        },
        PathBuf::from,
    )
}

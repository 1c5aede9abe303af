//! A node made of nothing but its loaded programs and maps: packets go in by `BPF_PROG_TEST_RUN`,
//! verdicts and packets come out.

mod tables;

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions, TestRunResult,
    programs::{Program, ProgramError},
};
use datapath_common::{Addr, ConfigFlags};
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

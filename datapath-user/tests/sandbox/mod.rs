//! A node for one test: network and mount namespaces, a BPF file system and a cgroup of its own, and
//! a pod's interface `veth0` with 10.9.0.1, whose other end has 10.9.0.2 in another namespace.
#![allow(dead_code, reason = "each test binary uses another part")]

use aya::programs::{SchedClassifier, TcAttachType};
use datapath_user::datapath::{Device, Options, has_programs};
use nix::{
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::UdpSocket,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Runs `test` in a sandbox of its own, or says why not.
pub(crate) fn in_sandbox(test: impl FnOnce(&Sandbox) + Send + 'static) {
    if let Err(reason) = possible() {
        eprintln!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bpffs = folder.path().to_owned();
    let result = thread::spawn(move || test(&Sandbox::new(bpffs))).join();
    drop(folder);
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

fn possible() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    if cgroup2().is_none() {
        return Err("needs a mounted cgroup2 file system".into());
    }
    if !has_programs() {
        return Err("built without the kernel programs".into());
    }
    Ok(())
}

fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// The calling thread's own little node.
pub(crate) struct Sandbox {
    bpffs: PathBuf,
    cgroup: PathBuf,
    pod: Child,
}

#[expect(clippy::unused_self, reason = "a sandbox is the place where its thread lives")]
impl Sandbox {
    fn new(bpffs: PathBuf) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare");
        let none = None::<&str>;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(none, "/", none, private, none).expect("private mounts");
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none).expect("mount bpf");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("datapath-test-{}-{number}", std::process::id());
        let cgroup = cgroup2().expect("checked before").join(name);
        fs::create_dir(&cgroup).expect("a cgroup");
        let sandbox = Self { bpffs, cgroup, pod: pod() };
        let pid = sandbox.pod.id();
        sandbox.run("ip link set lo up");
        sandbox.run(&format!("ip link add veth0 type veth peer name eth0 netns {pid}"));
        sandbox.run("ip addr add 10.9.0.1/24 dev veth0");
        sandbox.run("ip link set veth0 up");
        let enter = format!("nsenter --net=/proc/{pid}/ns/net");
        sandbox.run(&format!("{enter} ip addr add 10.9.0.2/24 dev eth0"));
        sandbox.run(&format!("{enter} ip link set eth0 up"));
        sandbox
    }

    /// Options for this node.
    pub(crate) fn options(&self) -> Options {
        Options {
            bpffs: self.bpffs.clone(),
            cgroup_root: Some(self.cgroup.clone()),
            ..Options::default()
        }
    }

    /// A device of this node.
    pub(crate) fn device(&self, name: &str) -> Device {
        Device {
            index: if_nametoindex(name).expect("a device"),
            name: name.to_owned(),
            mac: [0; 6],
            mtu: 1500,
            pair: true,
            peer_elsewhere: true,
            loopback: false,
            bridge: None,
            up: true,
        }
    }

    /// A process in the pod's network namespace.
    pub(crate) fn pod_pid(&self) -> u32 {
        self.pod.id()
    }

    /// Names of the pinned links.
    pub(crate) fn links(&self) -> Vec<String> {
        let entries = fs::read_dir(self.bpffs.join("v1/links")).expect("the folder of links");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Numbers of the programs that tcx links hold on a device.
    pub(crate) fn programs_on(&self, device: &Device) -> Vec<u32> {
        [TcAttachType::Ingress, TcAttachType::Egress]
            .into_iter()
            .flat_map(|hook| SchedClassifier::query_tcx(&device.name, hook).expect("query").1)
            .map(|info| info.id())
            .collect()
    }

    /// What ip tells of a device and its XDP program.
    pub(crate) fn xdp(&self, device: &str) -> String {
        self.run(&format!("ip -details link show dev {device}"))
    }

    /// What tc tells of the filters of a device.
    pub(crate) fn tc_filters(&self, device: &str) -> String {
        self.run(&format!("tc filter show dev {device} ingress"))
            + &self.run(&format!("tc filter show dev {device} egress"))
    }

    /// Runs a command on this node; returns what it printed.
    pub(crate) fn run(&self, command: &str) -> String {
        let mut words = command.split(' ');
        let output = Command::new(words.next().expect("a command"))
            .args(words)
            .output()
            .expect("the command starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sends datagrams to the pod, which sends each of them back, until it is told to finish.
    pub(crate) fn traffic(&self) -> Traffic {
        let pod = PathBuf::from(format!("/proc/{}/ns/net", self.pod.id()));
        let (stop_client, stop_echo) = (Arc::default(), Arc::default());
        let stops = (Arc::clone(&stop_client), Arc::clone(&stop_echo));
        let (ready, wait) = std::sync::mpsc::channel();
        let echo = thread::spawn(move || echo(&pod, &stops.1, &ready));
        wait.recv().expect("the pod answers");
        let client = thread::spawn(move || client(&stops.0));
        Traffic { stop_client, stop_echo, echo: Some(echo), client: Some(client) }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.pod.kill().expect("the pod ends");
        self.pod.wait().expect("the pod has ended");
        fs::remove_dir(&self.cgroup).expect("nobody is in the cgroup");
    }
}

/// A process that keeps a network namespace alive.
fn pod() -> Child {
    let mut pod = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare starts");
    let mut line = String::new();
    BufReader::new(pod.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    pod
}

/// Datagrams there and back.
pub(crate) struct Traffic {
    stop_client: Arc<AtomicBool>,
    stop_echo: Arc<AtomicBool>,
    echo: Option<JoinHandle<()>>,
    client: Option<JoinHandle<(u32, u32)>>,
}

impl Traffic {
    /// Stops it; returns how many datagrams were sent and how many came back.
    pub(crate) fn finish(&mut self) -> (u32, u32) {
        self.stop_client.store(true, Ordering::Relaxed);
        let counts = self.client.take().expect("not finished yet").join().expect("the client");
        // Only now, so that the last datagram is answered too.
        self.stop_echo.store(true, Ordering::Relaxed);
        self.echo.take().expect("not finished yet").join().expect("the echo");
        counts
    }
}

const TICK: Duration = Duration::from_millis(200);

fn echo(pod: &Path, stop: &AtomicBool, ready: &std::sync::mpsc::Sender<()>) {
    let namespace = File::open(pod).expect("the pod's namespace");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the pod");
    let socket = UdpSocket::bind("10.9.0.2:7").expect("bind");
    socket.set_read_timeout(Some(TICK)).expect("a timeout");
    ready.send(()).expect("somebody waits");
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((size, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..size], from).expect("an answer");
        }
    }
}

fn client(stop: &AtomicBool) -> (u32, u32) {
    let socket = UdpSocket::bind("10.9.0.1:0").expect("bind");
    socket.connect("10.9.0.2:7").expect("connect");
    socket.set_read_timeout(Some(TICK)).expect("a timeout");
    let (mut sent, mut answered) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        socket.send(b"are you there?").expect("send");
        sent += 1;
        answered += u32::from(socket.recv(&mut [0; 64]).is_ok());
        // Not so many that they keep the machine from everything else.
        thread::sleep(Duration::from_micros(200));
    }
    // On a busy machine an answer may be late; only one that never comes is lost.
    let end = Instant::now() + Duration::from_secs(5);
    while answered < sent && Instant::now() < end {
        answered += u32::from(socket.recv(&mut [0; 64]).is_ok());
    }
    (sent, answered)
}

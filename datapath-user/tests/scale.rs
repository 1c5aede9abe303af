//! 10,000 Services with 10 endpoints each, one endpoint changing 100 times a second: how long each
//! change takes from its watch event to the kernel, and that no packet gets a wrong verdict
//! meanwhile. Other numbers are given by `DATAPATH_SCALE=SERVICESxENDPOINTS`.
//!
//! The agent's controller and the real maps and programs, without the API server, whose own speed is
//! not in question here. A pod asks the changing Service all the time, every time from another
//! port; whoever answers must have been an endpoint at some moment between question and answer.
//! The figures are printed; only what no busy machine explains fails the test.

mod sandbox;

use datapath_common::{Addr, FrontendKey};
use datapath_user::{
    agent::{Controller, KernelSettings},
    datapath::{
        Datapath, Device, Reader,
        devices::{KernelRoute, Snapshot},
    },
    health::Telemetry,
    k8s::News,
    model::{
        Endpoint, Event, Kind, Node, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort,
    },
    plan::{LocalDetector, Settings},
};
use nix::sched::{CloneFlags, setns};
use sandbox::{Sandbox, in_sandbox};
use std::{
    collections::HashSet,
    env,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// Other numbers than [`SIZE`]: `50000x10`.
const VARIABLE: &str = "DATAPATH_SCALE";
const SIZE: Size = Size { services: 10_000, endpoints: 10 };
/// Endpoints of the changing Service.
const ENDPOINTS: u8 = 10;
const CHANGES: usize = 500;
const PERIOD: Duration = Duration::from_millis(10);
/// How long the agent's loop lets events gather.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// What a change should take at most, and what one takes only if something is wrong.
const TARGET: Duration = Duration::from_millis(50);
const EXCESS: Duration = Duration::from_secs(2);
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// The changing Service.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
const PORT: NonZeroU16 = NonZeroU16::new(53).unwrap();
/// Its endpoints are addresses of the node itself: 9 that stay, and one of many in turn.
const STAYING: std::ops::Range<u8> = 10..10 + ENDPOINTS - 1;
const CHANGING: std::ops::Range<u8> = 100..140;

#[test]
fn every_change_of_ten_thousand_services_is_in_the_kernel_at_once() {
    in_sandbox(|sandbox| {
        prepare(sandbox);
        let stop = Arc::new(AtomicBool::new(false));
        let servers: Vec<_> = STAYING.chain(CHANGING).map(|last| serve(last, &stop)).collect();
        let size = Size::wanted();
        let before = resident();
        let mut controller = controller(sandbox);
        let history = Arc::new(History::default());
        let started = Instant::now();
        tell_all(&mut controller, size, &history);
        let Size { services, endpoints } = size;
        println!(
            "{services} Services of {endpoints} endpoints: first sync {:?}",
            started.elapsed()
        );
        println!("resident memory: {} MiB, before that {} MiB", resident() >> 20, before >> 20);
        print_memory(sandbox);
        let pod = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pod_pid()));
        let asked = {
            let (stop, history) = (Arc::clone(&stop), Arc::clone(&history));
            thread::spawn(move || ask_all_the_time(&pod, &stop, &history))
        };
        let mut times = change_all_the_time(&mut controller, &history);
        stop.store(true, Ordering::Relaxed);
        let (asked, wrong) = asked.join().expect("the client");
        for server in servers {
            server.join().expect("a server");
        }
        times.sort();
        let late = times.iter().filter(|time| **time > TARGET).count();
        let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
        let p99 = times[times.len() * 99 / 100];
        println!("{CHANGES} changes: p50 {median:?}, p99 {p99:?}, max {last:?}, {late} late");
        println!("{asked} questions, {} wrong verdicts", wrong.len());
        assert!(asked > 100, "only {asked} questions in all the time");
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(p99 < EXCESS, "p99 {p99:?}");
        check_maps(sandbox, size);
    });
}

/// How large the cluster is.
#[derive(Clone, Copy)]
struct Size {
    services: u32,
    endpoints: u32,
}

impl Size {
    fn wanted() -> Self {
        let Ok(text) = env::var(VARIABLE) else { return SIZE };
        let (services, endpoints) = text.split_once('x').expect("of the form 50000x10");
        let number = |text: &str| text.parse().expect("of the form 50000x10");
        Self { services: number(services), endpoints: number(endpoints) }
    }
}

/// Memory of this process in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

/// What the maps take in the kernel.
fn print_memory(sandbox: &Sandbox) {
    let reader = Reader::open(&sandbox.options().bpffs).expect("the maps");
    let mut all = 0;
    for map in reader.map_fill().expect("the maps' fill") {
        let memory = map.memory.unwrap_or_default();
        all += memory;
        println!("{:<14}{:>9} entries {:>9} KiB", map.name, map.entries, memory >> 10);
    }
    println!("all maps: {} MiB", all >> 20);
}

/// Addresses for all endpoints, and the pod's way to Services.
fn prepare(sandbox: &Sandbox) {
    for last in STAYING.chain(CHANGING) {
        sandbox.run(&format!("ip addr add {}/32 dev veth0", endpoint(last)));
    }
    let enter = format!("nsenter --net=/proc/{}/ns/net", sandbox.pod_pid());
    sandbox.run(&format!("{enter} ip route add default via 10.9.0.1"));
}

fn endpoint(last: u8) -> IpAddr {
    [10, 9, 0, last].into()
}

/// Answers with the last byte of its address.
fn serve(last: u8, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let socket = UdpSocket::bind((endpoint(last), PORT.get())).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut buffer = [0; 8];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&[last], from).expect("an answer");
            }
        }
    })
}

fn controller(sandbox: &Sandbox) -> Controller<Datapath> {
    let datapath = Datapath::load(&sandbox.options()).expect("load");
    let mut plan = Settings::new("n1");
    plan.local = LocalDetector::Ranges(vec!["10.9.0.0/24".parse().expect("a range")]);
    let telemetry = Arc::new(Telemetry::default());
    let mut controller =
        Controller::new(datapath, KernelSettings::default(), plan, telemetry, None)
            .expect("a controller");
    controller.snapshot(snapshot(sandbox));
    controller
}

/// The node's network: the pod, and the addresses.
fn snapshot(sandbox: &Sandbox) -> Arc<Snapshot> {
    let device: Device = sandbox.device("veth0");
    let index = device.index;
    let own = STAYING.chain(CHANGING).chain([1]);
    Arc::new(Snapshot {
        devices: [(index, device)].into(),
        addresses: own.map(|last| (endpoint(last), [index].into())).collect(),
        prefix_lengths: [].into(),
        routes: vec![KernelRoute {
            prefix: "10.9.0.2/32".parse().expect("a range"),
            gateway: None,
            device: index,
            metric: 0,
        }],
        neighbours: [].into(),
    })
}

fn name(number: u32) -> ObjectName {
    ObjectName::namespaced("ns", &format!("s{number}"))
}

fn service(number: u32) -> Event {
    let mut service = Service::new(name(number));
    service.cluster_ips = [(Ipv4Addr::from(u32::from(ADDRESS) + number)).into()].into();
    service.ports =
        [ServicePort { name: "p".into(), protocol: Protocol::Udp, port: PORT, node_port: None }]
            .into();
    Event::Service(service)
}

fn slice(number: u32, endpoints: impl Iterator<Item = IpAddr>) -> Event {
    Event::Slice(Slice {
        name: name(number),
        service: name(number),
        ports: [SlicePort { name: "p".into(), protocol: Protocol::Udp, port: PORT }].into(),
        endpoints: endpoints.map(Endpoint::new).collect(),
        trigger_time: None,
    })
}

fn changing_slice(last: u8) -> Event {
    slice(0, STAYING.chain([last]).map(endpoint))
}

fn tell_all(controller: &mut Controller<Datapath>, size: Size, history: &History) {
    let first = CHANGING.start;
    history.comes(first);
    controller.news(News::Event(changing_slice(first)));
    for number in 0..size.services {
        controller.news(News::Event(service(number)));
        if number > 0 {
            let base = u32::from(Ipv4Addr::new(11, 0, 0, 0)) + number * size.endpoints;
            let all = (0..size.endpoints).map(|index| Ipv4Addr::from(base + index).into());
            controller.news(News::Event(slice(number, all)));
        }
    }
    controller.news(News::Event(Event::Node(Node::new("n1"))));
    let names: HashSet<_> = (0..size.services).map(name).collect();
    for kind in [Kind::Service, Kind::Slice] {
        controller.news(News::Event(Event::Listed(kind, names.clone())));
    }
    let node = [ObjectName::cluster("n1")].into();
    controller.news(News::Event(Event::Listed(Kind::Node, node)));
    for kind in [Kind::Pod, Kind::ServiceCidr] {
        controller.news(News::Event(Event::Listed(kind, HashSet::new())));
    }
    assert!(controller.apply(), "the first sync");
    history.is_in_force();
}

/// When each of the changing endpoints came, and when its coming was in the kernel.
#[derive(Default)]
struct History(Mutex<Vec<(u8, Instant, Option<Instant>)>>);

impl History {
    fn comes(&self, last: u8) {
        self.0.lock().expect("no panic").push((last, Instant::now(), None));
    }

    fn is_in_force(&self) {
        let mut changes = self.0.lock().expect("no panic");
        changes.last_mut().expect("a change").2 = Some(Instant::now());
    }

    /// Whether the kernel may have chosen that endpoint between `sent` and now.
    fn allows(&self, last: u8, sent: Instant) -> bool {
        let changes = self.0.lock().expect("no panic");
        changes.iter().enumerate().any(|(index, (endpoint, ..))| {
            // It serves until the change after it is in force.
            let end = changes.get(index + 1).and_then(|(_, _, in_force)| *in_force);
            *endpoint == last && end.is_none_or(|end| end >= sent)
        })
    }
}

fn change_all_the_time(controller: &mut Controller<Datapath>, history: &History) -> Vec<Duration> {
    let start = Instant::now();
    let changing: Vec<u8> = CHANGING.collect();
    (1..=CHANGES)
        .map(|number| {
            let due = start + PERIOD * u32::try_from(number).expect("few");
            sleep(due.saturating_duration_since(Instant::now()));
            let event = Instant::now();
            let last = changing[number % changing.len()];
            history.comes(last);
            controller.news(News::Event(changing_slice(last)));
            sleep(DEBOUNCE);
            assert!(controller.apply(), "change {number}");
            history.is_in_force();
            event.elapsed()
        })
        .collect()
}

/// Number of questions, and what was wrong with the answers.
fn ask_all_the_time(pod: &Path, stop: &AtomicBool, history: &History) -> (usize, Vec<String>) {
    let namespace = File::open(pod).expect("the pod's namespace");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the pod");
    let (mut asked, mut wrong) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let socket = UdpSocket::bind("10.9.0.2:0").expect("bind");
        socket.connect((ADDRESS, PORT.get())).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let sent = Instant::now();
        let mut answer = [0; 8];
        match socket.send(b"who?").and_then(|_| socket.recv(&mut answer)) {
            Ok(_) if STAYING.contains(&answer[0]) || history.allows(answer[0], sent) => {}
            Ok(_) => wrong.push(format!("question {asked}: {} answered", answer[0])),
            Err(error) => wrong.push(format!("question {asked}: {error}")),
        }
        asked += 1;
        sleep(Duration::from_micros(500));
    }
    (asked, wrong)
}

/// What the kernel holds in the end.
fn check_maps(sandbox: &Sandbox, size: Size) {
    let tables = Datapath::load(&sandbox.options()).expect("load").dump().expect("dump");
    let all = ((size.services - 1) * size.endpoints) as usize + usize::from(ENDPOINTS);
    assert_eq!((tables.backends.len(), tables.slots.len()), (all, all));
    // One for the port, one for all others of the address.
    assert_eq!(tables.frontends.len(), 2 * size.services as usize);
    let key = FrontendKey::any_port(Addr::from(ADDRESS));
    assert!(tables.frontends.contains_key(&key));
    let changing: Vec<u8> = CHANGING.collect();
    let last = endpoint(changing[CHANGES % changing.len()]);
    let backends = tables.backends.values().filter(|backend| {
        let IpAddr::V4(ip) = backend.addr.ip() else { return false };
        ip.octets()[..3] == [10, 9, 0] && CHANGING.contains(&ip.octets()[3])
    });
    let left: Vec<_> = backends.map(|backend| backend.addr.ip()).collect();
    assert_eq!(left, [last], "of those that changed only the last is left");
}

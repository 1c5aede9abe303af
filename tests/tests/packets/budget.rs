//! What the kernel programs cost, held against `budget.toml`: instructions that the verifier looks
//! at, program by program, and nanoseconds a packet takes, path by path.
//!
//! Paths are timed in two ways. *Fresh*: every packet is a new one, and the kernel measures each run by
//! itself; caches are as cold as between a system call and the next. *In a row*: what comes out goes in
//! again, as in a train of packets; that only shows paths that lead back to where they began. What
//! remains of the measuring is taken out again: the time of a program that returns at once. The paths
//! take turns, and of each the middle half of its samples counts, so that neither a busy neighbour nor
//! an interrupt moves the figures.

use crate::{
    frame::{describe, frame},
    node::{FROM_POD, FROM_UPLINK, Node, TO_POD, TO_UPLINK, Verdict},
    reference,
};
use datapath_common::{Be16, Flow, Ports, Protocol, Tuple};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, env, fs, net::SocketAddr, path::PathBuf};

/// `write` makes the budget what was measured.
const VARIABLE: &str = "DATAPATH_BUDGET";
/// How much more than its budget a program may give the verifier to look at, in percent.
const MARGIN: u32 = 10;
/// The paths take turns this many times…
const ROUNDS: u16 = 40;
/// …with this many packets each…
const PACKETS: u16 = 100;
/// …and this many in a row: each loses one of its time to live, of which it has 64.
const IN_A_ROW: u32 = 50;

/// A packet's way through one program.
struct Course {
    name: &'static str,
    /// What came before, and at which hook.
    before: &'static [(&'static str, &'static str)],
    hook: &'static str,
    /// The packet; `PORT` is another port each time.
    packet: &'static str,
    /// What goes in when the path is timed in a row.
    in_a_row: InARow,
    verdict: Verdict,
}

/// How a packet that comes out goes in again.
enum InARow {
    /// Not at all: the path is that of first packets, or of such as do not come back.
    No,
    /// As the same packet.
    Same,
    /// As a packet of the flow of the first of these two, which makes it the other, and so on.
    Between(&'static str, &'static str),
}

const COURSES: &[Course] = &[
    Course {
        name: "established flow, to the backend",
        before: &[(FROM_POD, "10.10.3.5:40000 > 10.200.1.10:80 tcp S")],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.200.1.10:80 tcp A",
        in_a_row: InARow::Between(
            "10.10.3.5:40000 > 10.10.1.7:8080 tcp A",
            "10.10.3.5:40000 > 10.10.1.8:8081 tcp A",
        ),
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established flow, to the backend, IPv6",
        before: &[(FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp S")],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp A",
        in_a_row: InARow::Between(
            "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp A",
            "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::8]:8081 tcp A",
        ),
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established flow, back to the client",
        before: &[(FROM_POD, "10.10.3.5:40001 > 10.200.1.10:80 tcp S")],
        hook: FROM_UPLINK,
        packet: "10.10.1.7:8080 > 10.10.3.5:40001 tcp A",
        in_a_row: InARow::Between(
            "10.10.1.7:8080 > 10.10.3.5:40001 tcp A",
            "10.10.1.8:8081 > 10.10.3.5:40001 tcp A",
        ),
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established flow, back to the client, IPv6",
        before: &[(FROM_POD, "[fd00:10:10:3::5]:40001 > [fd00:10:200:1::10]:80 tcp S")],
        hook: FROM_UPLINK,
        packet: "[fd00:10:10:1::7]:8080 > [fd00:10:10:3::5]:40001 tcp A",
        in_a_row: InARow::Between(
            "[fd00:10:10:1::7]:8080 > [fd00:10:10:3::5]:40001 tcp A",
            "[fd00:10:10:1::8]:8081 > [fd00:10:10:3::5]:40001 tcp A",
        ),
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established datagrams, to the backend",
        before: &[(FROM_POD, "10.10.3.5:40000 > 10.200.1.12:53 udp")],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.200.1.12:53 udp",
        in_a_row: InARow::No,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "new flow",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:PORT > 10.200.1.10:80 tcp S",
        in_a_row: InARow::No,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "new flow, IPv6",
        before: &[],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:PORT > [fd00:10:200:1::10]:80 tcp S",
        in_a_row: InARow::No,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "new flow of a process of the node",
        before: &[],
        hook: TO_UPLINK,
        packet: "172.18.0.3:PORT > 10.200.1.10:80 tcp S",
        in_a_row: InARow::No,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, opening",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:PORT > 10.10.1.9:8080 tcp S",
        in_a_row: InARow::No,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, same node",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.10.3.6:8080 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, same node, IPv6",
        before: &[],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:40000 > [fd00:10:10:3::6]:8080 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, leaving for another node",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.10.1.9:8080 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, arriving from another node",
        before: &[],
        hook: FROM_UPLINK,
        packet: "10.10.1.9:8080 > 10.10.3.5:40000 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, arriving from another node, IPv6",
        before: &[],
        hook: FROM_UPLINK,
        packet: "[fd00:10:10:1::9]:8080 > [fd00:10:10:3::5]:40000 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "bystander, pod to the world",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 192.0.2.1:443 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Next,
    },
    Course {
        name: "bystander, node to the world",
        before: &[],
        hook: TO_UPLINK,
        packet: "172.18.0.3:40000 > 192.0.2.1:443 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Next,
    },
    Course {
        name: "bystander, the world to the node",
        before: &[],
        hook: FROM_UPLINK,
        packet: "192.0.2.1:443 > 172.18.0.3:40000 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Next,
    },
    Course {
        name: "bystander, the stack to a pod",
        before: &[],
        hook: TO_POD,
        packet: "192.0.2.1:443 > 10.10.3.5:40000 tcp A",
        in_a_row: InARow::Same,
        verdict: Verdict::Next,
    },
    Course {
        name: "reject",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:PORT > 10.200.1.15:80 tcp S",
        in_a_row: InARow::No,
        verdict: Verdict::Redirect,
    },
    Course {
        name: "reject, IPv6",
        before: &[],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:PORT > [fd00:10:200:1::15]:80 tcp S",
        in_a_row: InARow::No,
        verdict: Verdict::Redirect,
    },
];

/// What `budget.toml` holds.
#[derive(Serialize, Deserialize, PartialEq)]
struct Budget {
    /// The kernel and the compiler that the figures are of; others have others.
    made_with: String,
    /// Instructions that the verifier looked at, by program.
    instructions: BTreeMap<String, u32>,
    /// Nanoseconds for a fresh packet, by path. Not judged: they are those of one machine.
    nanoseconds: BTreeMap<String, f64>,
    /// The same for packets in a row.
    nanoseconds_in_a_row: BTreeMap<String, f64>,
}

#[test]
fn the_programs_keep_within_their_budget() {
    let Some(mut node) = reference() else { return };
    stay_on_one_cpu();
    for (hook, packet) in COURSES.iter().flat_map(|course| course.before) {
        node.run(hook, &frame(packet));
    }
    let measured = Budget {
        made_with: format!("Linux {}, rustc {}", kernel(), Node::compiler()),
        instructions: node.verified().into_iter().collect(),
        // First: fresh packets fill the table of flows, and would push out what is led back.
        nanoseconds_in_a_row: in_a_row(&mut node),
        nanoseconds: fresh(&mut node),
    };
    if env::var(VARIABLE).is_ok_and(|value| value == "write") {
        let text = toml::to_string(&measured).expect("a budget can be written");
        fs::write(
            path(),
            format!("# Written by `{VARIABLE}=write cargo xtask test packets -- budget`.\n{text}"),
        )
        .expect("budget.toml is written");
        return;
    }
    let budget = fs::read_to_string(path()).expect("budget.toml");
    let budget: Budget = toml::from_str(&budget).expect("budget.toml is sound");
    let over = compare(&budget, &measured);
    if budget.made_with != measured.made_with {
        println!("skipped: the budget is for {}, here is {}", budget.made_with, measured.made_with);
        return;
    }
    assert!(
        over.is_empty(),
        "more than {MARGIN} % over budget: {} (if it is worth that: {VARIABLE}=write)",
        over.join(", ")
    );
}

/// Prints budget and figures side by side. Returns the programs that are over their budget.
fn compare(budget: &Budget, measured: &Budget) -> Vec<String> {
    println!("{:<58}{:>10}{:>10}", "", "budget", "now");
    let mut over = Vec::new();
    for (program, now) in &measured.instructions {
        let budget = budget.instructions.get(program).copied().unwrap_or_default();
        let too_many = now * 100 > budget * (100 + MARGIN);
        let mark = if too_many { "  over" } else { "" };
        println!("{:<58}{budget:>10}{now:>10}{mark}", format!("{program}, instructions"));
        if too_many {
            over.push(format!("{program} {budget} -> {now}"));
        }
    }
    for (budget, measured, unit) in [
        (&budget.nanoseconds, &measured.nanoseconds, "ns"),
        (&budget.nanoseconds_in_a_row, &measured.nanoseconds_in_a_row, "ns in a row"),
    ] {
        for (name, now) in measured {
            let budget = budget.get(name).copied().unwrap_or_default();
            println!("{:<58}{budget:>10.1}{now:>10.1}", format!("{name}, {unit}"));
        }
    }
    over
}

fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0).expect("there is a first CPU");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("this thread stays on one CPU");
}

fn fresh(node: &mut Node) -> BTreeMap<String, f64> {
    let mut empty = Vec::new();
    let mut samples = vec![Vec::new(); COURSES.len()];
    for round in 0..ROUNDS {
        let ports = 1024 + round * PACKETS..1024 + (round + 1) * PACKETS;
        for (course, samples) in COURSES.iter().zip(&mut samples) {
            for port in ports.clone() {
                let frame = frame(&course.packet.replace("PORT", &port.to_string()));
                let (verdict, nanoseconds) = node.time(course.hook, &frame, 1);
                assert_eq!(verdict, course.verdict, "{}", course.name);
                samples.push(nanoseconds);
                empty.push(node.time_of_nothing(&frame, 1));
            }
        }
    }
    let nothing = middle(empty);
    let results = samples.into_iter().map(|samples| middle(samples) - nothing);
    COURSES.iter().map(|course| course.name.to_owned()).zip(results.map(tenths)).collect()
}

fn in_a_row(node: &mut Node) -> BTreeMap<String, f64> {
    let courses: Vec<_> = COURSES
        .iter()
        .filter_map(|course| match course.in_a_row {
            InARow::No => None,
            InARow::Same => Some((course, course.packet)),
            InARow::Between(one, other) => {
                lead_back(node, course.hook, one, other);
                Some((course, one))
            }
        })
        .collect();
    let mut empty = Vec::new();
    let mut samples = vec![Vec::new(); courses.len()];
    for _ in 0..ROUNDS * 4 {
        for ((course, packet), samples) in courses.iter().zip(&mut samples) {
            let frame = frame(packet);
            let (verdict, nanoseconds) = node.time(course.hook, &frame, IN_A_ROW);
            assert_eq!(verdict, course.verdict, "{}", course.name);
            samples.push(nanoseconds);
            empty.push(node.time_of_nothing(&frame, IN_A_ROW));
        }
    }
    let nothing = middle(empty);
    let results = samples.into_iter().map(|samples| middle(samples) - nothing);
    courses.iter().map(|(course, _)| course.name.to_owned()).zip(results.map(tenths)).collect()
}

/// Makes the packets of `one` those of `other`, and these those of `one`, by entries like that of the
/// flow that one of them belongs to.
fn lead_back(node: &mut Node, hook: &str, sent: &str, made: &str) {
    let [one, other] = [sent, made].map(tuple);
    let flow = node.flows().into_iter().find(|(from, flow)| *from == one || flow.to == one);
    let (_, flow) = flow.expect("the flow was opened");
    node.put_flow(one, Flow { to: other, ..flow });
    node.put_flow(other, Flow { to: one, ..flow });
    let out = describe(&node.run(hook, &frame(sent)).1);
    assert!(out.starts_with(made), "{out}");
}

/// The tuple of a TCP packet.
fn tuple(packet: &str) -> Tuple {
    let words: Vec<_> = packet.split_whitespace().collect();
    let [src, ">", dst, ..] = words.as_slice() else { panic!("not a packet: {packet}") };
    let [src, dst] = [src, dst].map(|end| end.parse::<SocketAddr>().expect("an endpoint"));
    Tuple {
        src: src.ip().into(),
        dst: dst.ip().into(),
        ports: Ports { src: Be16::new(src.port()), dst: Be16::new(dst.port()) },
        protocol: Protocol::TCP,
        pad: [0; 3],
    }
}

/// The mean of the middle half.
fn middle(mut samples: Vec<u32>) -> f64 {
    samples.sort_unstable();
    let half = &samples[samples.len() / 4..samples.len() * 3 / 4];
    half.iter().copied().map(f64::from).sum::<f64>() / f64::from(half.len() as u32)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The running kernel's version, as far as it says what the verifier does.
fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a version");
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("budget.toml")
}

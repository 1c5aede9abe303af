//! What the kernel programs cost, held against `budget.toml`: instructions that the verifier looks
//! at, program by program, and nanoseconds a packet takes, path by path.
//!
//! Every packet is a fresh one, and the kernel measures each run by itself. What remains of the
//! measuring is taken out again: the time of a program that returns at once. The paths take turns,
//! and of each the middle half of its samples counts, so that neither a busy neighbour nor an
//! interrupt moves the figures.

use crate::{
    frame::frame,
    node::{FROM_POD, FROM_UPLINK, Node, TO_POD, TO_UPLINK, Verdict},
    reference,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, env, fs, path::PathBuf};

/// `write` makes the budget what was measured.
const VARIABLE: &str = "DATAPATH_BUDGET";
/// How much more than its budget a program may give the verifier to look at, in percent.
const MARGIN: u32 = 10;
/// The paths take turns this many times…
const ROUNDS: u16 = 40;
/// …with this many packets each.
const PACKETS: u16 = 100;

/// A packet's way through one program.
struct Course {
    name: &'static str,
    /// What came before, and at which hook.
    before: &'static [(&'static str, &'static str)],
    hook: &'static str,
    /// The packet; `PORT` is another port each time.
    packet: &'static str,
    verdict: Verdict,
}

const COURSES: &[Course] = &[
    Course {
        name: "established flow, to the backend",
        before: &[(FROM_POD, "10.10.3.5:40000 > 10.200.1.10:80 tcp S")],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.200.1.10:80 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established flow, to the backend, IPv6",
        before: &[(FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp S")],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established flow, back to the client",
        before: &[(FROM_POD, "10.10.3.5:40001 > 10.200.1.10:80 tcp S")],
        hook: FROM_UPLINK,
        packet: "10.10.1.7:8080 > 10.10.3.5:40001 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established flow, back to the client, IPv6",
        before: &[(FROM_POD, "[fd00:10:10:3::5]:40001 > [fd00:10:200:1::10]:80 tcp S")],
        hook: FROM_UPLINK,
        packet: "[fd00:10:10:1::7]:8080 > [fd00:10:10:3::5]:40001 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "established datagrams, to the backend",
        before: &[(FROM_POD, "10.10.3.5:40000 > 10.200.1.12:53 udp")],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.200.1.12:53 udp",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "new flow",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:PORT > 10.200.1.10:80 tcp S",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "new flow, IPv6",
        before: &[],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:PORT > [fd00:10:200:1::10]:80 tcp S",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "new flow of a process of the node",
        before: &[],
        hook: TO_UPLINK,
        packet: "172.18.0.3:PORT > 10.200.1.10:80 tcp S",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, opening",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:PORT > 10.10.1.9:8080 tcp S",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, same node",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.10.3.6:8080 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, same node, IPv6",
        before: &[],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:40000 > [fd00:10:10:3::6]:8080 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, leaving for another node",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 10.10.1.9:8080 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, arriving from another node",
        before: &[],
        hook: FROM_UPLINK,
        packet: "10.10.1.9:8080 > 10.10.3.5:40000 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "pod to pod, arriving from another node, IPv6",
        before: &[],
        hook: FROM_UPLINK,
        packet: "[fd00:10:10:1::9]:8080 > [fd00:10:10:3::5]:40000 tcp A",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "bystander, pod to the world",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:40000 > 192.0.2.1:443 tcp A",
        verdict: Verdict::Next,
    },
    Course {
        name: "bystander, node to the world",
        before: &[],
        hook: TO_UPLINK,
        packet: "172.18.0.3:40000 > 192.0.2.1:443 tcp A",
        verdict: Verdict::Next,
    },
    Course {
        name: "bystander, the world to the node",
        before: &[],
        hook: FROM_UPLINK,
        packet: "192.0.2.1:443 > 172.18.0.3:40000 tcp A",
        verdict: Verdict::Next,
    },
    Course {
        name: "bystander, the stack to a pod",
        before: &[],
        hook: TO_POD,
        packet: "192.0.2.1:443 > 10.10.3.5:40000 tcp A",
        verdict: Verdict::Next,
    },
    Course {
        name: "reject",
        before: &[],
        hook: FROM_POD,
        packet: "10.10.3.5:PORT > 10.200.1.15:80 tcp S",
        verdict: Verdict::Redirect,
    },
    Course {
        name: "reject, IPv6",
        before: &[],
        hook: FROM_POD,
        packet: "[fd00:10:10:3::5]:PORT > [fd00:10:200:1::15]:80 tcp S",
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
    /// Nanoseconds for a packet, by path. Not judged: they are those of one machine.
    nanoseconds: BTreeMap<String, f64>,
}

#[test]
fn the_programs_keep_within_their_budget() {
    let Some(mut node) = reference() else { return };
    let measured = Budget {
        made_with: format!("Linux {}, rustc {}", kernel(), Node::compiler()),
        instructions: node.verified().into_iter().collect(),
        nanoseconds: measure(&mut node),
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
    println!("{:<48}{:>10}{:>10}", "", "budget", "now");
    let mut over = Vec::new();
    for (program, now) in &measured.instructions {
        let budget = budget.instructions.get(program).copied().unwrap_or_default();
        let too_many = now * 100 > budget * (100 + MARGIN);
        let mark = if too_many { "  over" } else { "" };
        println!("{:<48}{budget:>10}{now:>10}{mark}", format!("{program}, instructions"));
        if too_many {
            over.push(format!("{program} {budget} -> {now}"));
        }
    }
    for (name, now) in &measured.nanoseconds {
        let budget = budget.nanoseconds.get(name).copied().unwrap_or_default();
        println!("{:<48}{budget:>10.1}{now:>10.1}", format!("{name}, ns"));
    }
    over
}

fn measure(node: &mut Node) -> BTreeMap<String, f64> {
    let mut cpus = CpuSet::new();
    cpus.set(0).expect("there is a first CPU");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("this thread stays on one CPU");
    for (hook, packet) in COURSES.iter().flat_map(|course| course.before) {
        node.run(hook, &frame(packet));
    }
    let mut empty = Vec::new();
    let mut samples = vec![Vec::new(); COURSES.len()];
    for round in 0..ROUNDS {
        let ports = 1024 + round * PACKETS..1024 + (round + 1) * PACKETS;
        for (course, samples) in COURSES.iter().zip(&mut samples) {
            for port in ports.clone() {
                let frame = frame(&course.packet.replace("PORT", &port.to_string()));
                let (verdict, nanoseconds) = node.time(course.hook, &frame);
                assert_eq!(verdict, course.verdict, "{}", course.name);
                samples.push(nanoseconds);
                empty.push(node.time_of_nothing(&frame));
            }
        }
    }
    let nothing = middle(empty);
    let results = samples.into_iter().map(|samples| middle(samples) - nothing);
    COURSES.iter().map(|course| course.name.to_owned()).zip(results.map(tenths)).collect()
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

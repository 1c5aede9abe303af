//! What the kernel programs do, with tables of the planner in their maps.

use super::{HERE, Shape, THERE, planned::Planned, sources};
use crate::{
    frame::{describe, frame},
    node::{self, FROM_POD, FROM_UPLINK, Node, TO_POD, TO_UPLINK, UPLINK, XDP_UPLINK},
};
use anyhow::ensure;
use datapath_common::ConfigFlags;
use datapath_user::plan::{Change, Tables};
use lab::{
    semantics::{Client, Packet, Proxy, Verdict, facts::Protocol},
    topology::{GATEWAY, OUTSIDE_ADDRESS},
};
use nix::sched::{CloneFlags, unshare};
use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

/// Source ports of clients, below those that masquerading takes.
const PORTS: std::ops::Range<u16> = 1024..60_000;

/// The loaded programs, in a network namespace with the routes of the node under test.
pub(super) struct Kernel {
    node: Node,
    written: Tables,
    /// Whether the uplink takes packets of the node itself.
    loopback: bool,
    /// Whether the XDP program stands before the uplink's.
    xdp: bool,
    port: u16,
}

/// What came out of a program.
#[derive(PartialEq, Debug)]
enum Answer {
    /// A packet with another destination.
    Sent {
        from: SocketAddr,
        to: SocketAddr,
    },
    Rejected,
    Dropped,
    NotAService,
}

impl Kernel {
    /// `None`, with the reason printed, where programs cannot be loaded.
    pub(super) fn load() -> Option<Self> {
        let node = Node::load()?;
        enter_network().expect("a network namespace like the node's");
        Some(Self {
            node,
            written: Tables::default(),
            loopback: false,
            xdp: false,
            port: PORTS.start,
        })
    }

    /// Brings the maps to what a planner wants.
    pub(super) fn write(&mut self, planned: &Planned, shape: Shape) {
        self.node.apply(&Change::between(&self.written, &planned.tables));
        self.written = planned.tables.clone();
        let mut flags = ConfigFlags::LOCAL_DETECTOR;
        if planned.carries_pods() {
            flags = flags.with(ConfigFlags::NATIVE_ROUTING);
        }
        if shape.loopback {
            flags = flags.with(ConfigFlags::LOOPBACK);
        }
        self.loopback = shape.loopback;
        self.node.configure(flags);
    }

    /// Sends the packet and, if it gets to a backend, that one's answer.
    /// Twice, the second time past the XDP program: with session affinity, both must go the same way.
    pub(super) fn compare(&mut self, packet: &Packet, reference: &Proxy<'_>) -> Result<(), String> {
        let expected = reference.judge(packet);
        let mut first = None;
        for xdp in [false, true] {
            self.xdp = xdp;
            let client = SocketAddr::new(packet.client.address(), self.next_port());
            let answer = self.send(packet, client);
            let right = match (&answer, &expected) {
                (Answer::Sent { from, to }, Verdict::Sent(backends)) => {
                    backends.get(to).is_some_and(|source| {
                        sources(packet, *to, *source, self.loopback).contains(&from.ip())
                    })
                }
                (Answer::Rejected, Verdict::Rejected)
                | (Answer::Dropped, Verdict::Dropped)
                | (Answer::NotAService, Verdict::NotAService) => true,
                _ => false,
            };
            if !right {
                return Err(format!("the programs say {answer:?}, the model {expected:?}"));
            }
            let Answer::Sent { from, to } = answer else { continue };
            let problem = |error| format!("the answer of {to}: {error:#}");
            self.answer(packet, client, from, to).map_err(problem)?;
            if reference.is_sticky(packet) && *first.get_or_insert(to) != to {
                return Err(format!("affinity changes from {first:?} to {to}"));
            }
        }
        Ok(())
    }

    /// A port that no flow has: what is decided for one probe must not answer another.
    fn next_port(&mut self) -> u16 {
        self.port += 1;
        if self.port == PORTS.end {
            self.port = PORTS.start;
            for (tuple, _) in self.node.flows() {
                self.node.remove_flow(&tuple);
            }
        }
        self.port
    }

    fn send(&mut self, packet: &Packet, client: SocketAddr) -> Answer {
        let hook = match packet.client {
            Client::Pod(_) => FROM_POD,
            Client::Host(_) => TO_UPLINK,
            Client::Outside(_) => FROM_UPLINK,
        };
        let sent = build(client, packet.to, packet.protocol, "S");
        let (verdict, output) = self.run(hook, &sent);
        if verdict == node::Verdict::Drop {
            return Answer::Dropped;
        }
        let text = describe(&output);
        if text.contains(" icmp 3/3") || text.contains(" icmp 1/4") {
            return Answer::Rejected;
        }
        let (from, to) = ends(&text);
        if to == packet.to { Answer::NotAService } else { Answer::Sent { from, to } }
    }

    fn run(&mut self, hook: &str, frame: &[u8]) -> (node::Verdict, Vec<u8>) {
        if hook == FROM_UPLINK && self.xdp {
            let (verdict, output) = self.node.run(XDP_UPLINK, frame);
            if verdict == node::Verdict::Turned {
                return (node::Verdict::Redirect, output);
            }
            assert_eq!((verdict, output.as_slice()), (node::Verdict::Pass, frame));
        }
        self.node.run(hook, frame)
    }

    /// Lets the backend answer: the client must see the answer of what it dialled.
    fn answer(
        &mut self,
        packet: &Packet,
        client: SocketAddr,
        from: SocketAddr,
        to: SocketAddr,
    ) -> anyhow::Result<()> {
        let pods = HERE.pod_ranges().map(|range| range.parse::<ipnet::IpNet>());
        let in_pod = |ip: IpAddr| pods.iter().flatten().any(|range| range.contains(&ip));
        let on_host = super::own().contains(&to.ip());
        // The way that the answer takes into the node's network, and the way out of it.
        let enters = match () {
            () if on_host => None,
            () if in_pod(to.ip()) => Some(FROM_POD),
            () => Some(FROM_UPLINK),
        };
        let leaves = match packet.client {
            Client::Pod(_) => Some(TO_POD),
            Client::Outside(_) => Some(TO_UPLINK),
            Client::Host(_) => on_host.then_some(TO_UPLINK),
        };
        let mut text = build(to, from, packet.protocol, "SA");
        for hook in [enters, leaves].into_iter().flatten() {
            let (verdict, output) = self.run(hook, &text);
            ensure!(verdict != node::Verdict::Drop, "dropped by {hook}");
            text = output;
            if verdict == node::Verdict::Redirect {
                break;
            }
        }
        let text = describe(&text);
        let (source, destination) = ends(&text);
        ensure!(source == packet.to && destination == client, "comes out as {text}");
        Ok(())
    }
}

fn build(from: SocketAddr, to: SocketAddr, protocol: Protocol, flags: &str) -> Vec<u8> {
    frame(&match protocol {
        Protocol::Tcp => format!("{from} > {to} tcp {flags}"),
        Protocol::Udp => format!("{from} > {to} udp"),
        Protocol::Sctp => format!("{from} > {to} sctp"),
    })
}

/// Source and destination of a described frame.
fn ends(text: &str) -> (SocketAddr, SocketAddr) {
    let ends: Vec<_> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match *ends {
        [source, destination] => (source, destination),
        _ => panic!("no packet: {text}"),
    }
}

/// Puts this thread into a network namespace with the routes of the node under test.
fn enter_network() -> anyhow::Result<()> {
    const NEIGHBOUR: &str = "02:00:00:00:01:05";
    unshare(CloneFlags::CLONE_NEWNET)?;
    for family in ["ipv4/conf", "ipv6/conf"] {
        std::fs::write(format!("/proc/sys/net/{family}/all/forwarding"), "1")?;
    }
    let ([node4, node6], [there4, there6]) = (HERE.address().both(), THERE.address().both());
    let [outside4, outside6] = OUTSIDE_ADDRESS.both();
    let ([pods4, pods6], [gateway4, gateway6]) = (THERE.pod_ranges(), GATEWAY.both());
    let lines = format!(
        "link set lo up\n\
         link add uplink index {UPLINK} type veth peer name wire\n\
         link set wire up\n\
         link set uplink up\n\
         addr add {node4}/16 dev uplink\n\
         addr add {node6}/64 dev uplink nodad\n\
         neigh add {there4} lladdr {NEIGHBOUR} dev uplink\n\
         neigh add {there6} lladdr {NEIGHBOUR} dev uplink\n\
         neigh add {gateway4} lladdr {NEIGHBOUR} dev uplink\n\
         neigh add {gateway6} lladdr {NEIGHBOUR} dev uplink\n\
         neigh add {outside4} lladdr {NEIGHBOUR} dev uplink\n\
         neigh add {outside6} lladdr {NEIGHBOUR} dev uplink\n\
         route add {pods4} via {there4}\n\
         route add {pods6} via {there6}\n\
         route add default via {gateway4}\n\
         route add default via {gateway6}\n"
    );
    for line in lines.lines() {
        let output = Command::new("ip").args(line.split_whitespace()).output()?;
        let problem = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {line}: {problem}");
    }
    Ok(())
}

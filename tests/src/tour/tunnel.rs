//! Between two pods of Calico's cluster: a ping, what is on the wire meanwhile, and what is counted.

use super::printed;
use crate::{Lab, cli::say, manifest::PodSpec, topology::Topology};
use anyhow::{Context as _, Result, ensure};
use std::{process::Stdio, thread, time::Duration};

/// How many times is pinged.
const PINGS: u32 = 3;
/// How long a capture takes to start.
const START: Duration = Duration::from_millis(700);

/// The two pods of the reference: 172.16.158.7 on the first worker, 172.16.184.1 on the second.
pub(crate) fn pods(topology: &'static Topology) -> Vec<PodSpec> {
    let [_, first, second, _] = &topology.nodes;
    vec![PodSpec::new("pod1", first, "ping").at(7), PodSpec::new("pod2", second, "ping").at(1)]
}

/// Pings the second pod from the first.
pub(super) fn show(lab: &Lab) -> Result<()> {
    let (first, second) = (lab.pod("pod1")?, lab.pod("pod2")?);
    let node = lab.node(first.spec.node.name)?;
    say(&format!("Routes of {}:", node.spec.name))?;
    say(&printed(node, &["route", "list"])?)?;
    let capture = node
        .space
        .command("tcpdump")?
        .args(["-n", "-l", "-vv", "-i", "eth0", "-c", &(2 * PINGS).to_string()])
        .arg("ip proto 4 or icmp")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start tcpdump")?;
    thread::sleep(START);
    let to = second.address.v4.to_string();
    let count = PINGS.to_string();
    let ping = first.space.output("ping", &["-n", "-c", &count, "-i", "0.2", "-W", "2", &to])?;
    say(&format!("{} ({}) pings {} ({to}):\n{ping}", "pod1", first.address.v4, "pod2"))?;
    let captured = capture.wait_with_output().context("read what tcpdump saw")?;
    let captured = String::from_utf8_lossy(&captured.stdout).into_owned();
    say(&format!("On the wire of {}:\n{captured}", node.spec.name))?;
    ensure!(ping.contains("ttl=62"), "two nodes take one each from the time to live");
    say("Routes again, with what went through them meanwhile:")?;
    say(&printed(node, &["route", "list"])?)
}

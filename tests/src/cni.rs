//! A container runtime's part in connecting pods: the plugins of the node's network configuration list
//! are called one after another, as the CNI specification has it.

use crate::{lab::Node, space::Space, suite::eventually, topology::Dual};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// Where Debian's containernetworking-plugins are.
const PLUGINS: &str = "/usr/lib/cni";
/// How long a node may take to become ready for pods.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why no plugin can be called on this machine, if so.
pub fn missing() -> Option<String> {
    let missing =
        ["ptp", "host-local", "loopback"].into_iter().find(|name| !program(name).exists());
    missing.map(|name| {
        let path = program(name);
        format!("{} is not installed (package containernetworking-plugins)", path.display())
    })
}

/// What became of a pod that was connected.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its addresses.
    pub(crate) address: Dual,
    /// The node's end of its interface.
    pub(crate) device: String,
}

/// Connects a pod, as soon as the node says how.
pub(crate) fn add(node: &Node, pod: &Space) -> Result<Connection> {
    let list = eventually(PATIENCE, || configuration(node))
        .with_context(|| format!("{} is not ready for pods", node.spec.name))?;
    // What it is disconnected with, whatever the node says by then.
    fs::write(cached(node, pod), list.to_string())?;
    let loopback = json!({"cniVersion": list["cniVersion"], "name": "lo", "type": "loopback"});
    call(node, pod, "ADD", "lo", &loopback)?;
    let mut result = Value::Null;
    for mut config in plugins(&list)? {
        if !result.is_null() {
            config["prevResult"] = result;
        }
        result = call(node, pod, "ADD", "eth0", &config)?;
    }
    connection(&result).with_context(|| format!("the plugins' result {result}"))
}

/// Disconnects a pod.
pub(crate) fn del(node: &Node, pod: &Space) -> Result<()> {
    let cached = cached(node, pod);
    let list: Value = serde_json::from_slice(&fs::read(&cached)?)?;
    for config in plugins(&list)?.into_iter().rev() {
        call(node, pod, "DEL", "eth0", &config)?;
    }
    fs::remove_file(cached).context("forget the pod")
}

/// The list that a runtime takes: the first by name.
fn configuration(node: &Node) -> Result<Value> {
    let folder = node.cni_conf_dir();
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conflist"))
        .collect();
    files.sort();
    let path = files.first().with_context(|| format!("no list in {}", folder.display()))?;
    let text = fs::read(path)?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}

/// The plugins' configurations, with what they inherit from the list.
fn plugins(list: &Value) -> Result<Vec<Value>> {
    let plugins = list["plugins"].as_array().context("no plugins")?;
    let inherit = |plugin: &Value| {
        let mut config = plugin.clone();
        for name in ["cniVersion", "name"] {
            config[name] = list[name].clone();
        }
        config
    };
    Ok(plugins.iter().map(inherit).collect())
}

fn call(node: &Node, pod: &Space, verb: &str, interface: &str, config: &Value) -> Result<Value> {
    let kind = config["type"].as_str().context("a plugin without a type")?;
    let mut child = node
        .space
        .command_in(&node.system_cgroup(), program(kind))?
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", id(pod))
        .env("CNI_NETNS", format!("/proc/{}/ns/net", pod.pid()))
        .env("CNI_IFNAME", interface)
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start the plugin {kind}"))?;
    child.stdin.take().context("no standard input")?.write_all(config.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let (answer, problem) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{kind} {verb} {}: {}{problem}", pod.name(), String::from_utf8_lossy(answer));
    }
    if answer.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(answer)?) }
}

/// The pod's addresses and the node's end of its interface, which ptp names first.
fn connection(result: &Value) -> Result<Connection> {
    let device = result["interfaces"][0]["name"].as_str().context("no interface")?.to_owned();
    let (mut v4, mut v6) = (None, None);
    for ip in result["ips"].as_array().context("no addresses")? {
        let text = ip["address"].as_str().context("no address")?;
        match text.split('/').next().unwrap_or_default().parse()? {
            IpAddr::V4(ip) => v4 = Some(ip),
            IpAddr::V6(ip) => v6 = Some(ip),
        }
    }
    let address = Dual { v4: v4.context("no IPv4 address")?, v6: v6.context("no IPv6 address")? };
    ensure!(device.starts_with("veth"), "{device} is no node's end");
    Ok(Connection { address, device })
}

fn id(pod: &Space) -> String {
    format!("{}-{}", pod.name(), pod.pid())
}

fn cached(node: &Node, pod: &Space) -> PathBuf {
    node.folder.join("cni").join(id(pod))
}

fn program(name: &str) -> PathBuf {
    Path::new(PLUGINS).join(name)
}

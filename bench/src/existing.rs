//! A cluster that is there already, with whatever proxy it has: its Services against its pods'
//! addresses.

use crate::{
    cluster::{Client, PATIENCE, Server, Variant, Way},
    load::order::{Order, PORT, Report, Work},
    process::Load,
    round::Side,
};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::{
    cell::RefCell,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    rc::Rc,
};

/// What there is, as `--cluster` names it in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Existing {
    /// What `/proxyMode` says on the client's node.
    proxy_mode: String,
    /// The command line that runs `bench-load` in the client.
    client: Vec<String>,
    /// A server on the client's node, and one on another.
    near: Destination,
    far: Destination,
}

/// A server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    /// The command line that runs `bench-load` there.
    load: Vec<String>,
    /// Its pod's address.
    pod: IpAddr,
    /// The address of the Service that it is the only endpoint of.
    service: IpAddr,
}

/// The load in the cluster.
#[derive(Debug)]
struct Loads {
    client: Load,
    _servers: [Load; 2],
}

/// One of the two ways to the same servers.
#[derive(Debug)]
pub struct OneWay {
    variant: Variant,
    loads: Rc<RefCell<Loads>>,
    servers: [IpAddr; 2],
}

impl Existing {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    }

    /// Starts the load and returns the ways to the servers: directly, and through their Services.
    pub fn start(self, cpu: usize) -> Result<[OneWay; 2]> {
        let Self { proxy_mode, client, near, far } = self;
        let variant = match proxy_mode.trim() {
            "ebpf" => Variant::Ours { socket_lb: true },
            "iptables" => Variant::KubeProxy("iptables"),
            "nftables" => Variant::KubeProxy("nftables"),
            other => bail!("the cluster's proxy works in mode {other:?}, which is not compared"),
        };
        let servers = [
            Load::serve(command(&near.load)?, cpu).context("the near server")?,
            Load::serve(command(&far.load)?, cpu).context("the far server")?,
        ];
        let mut client = Load::start(command(&client)?, cpu).context("the client")?;
        for ip in [near.service, far.service] {
            let to = SocketAddr::new(ip, PORT);
            client.order(&Order::Await { to, open: true, patience: PATIENCE })?.done()?;
        }
        let loads = Rc::new(RefCell::new(Loads { client, _servers: servers }));
        let direct = [near.pod, far.pod];
        let services = [near.service, far.service];
        Ok([(Variant::Direct, direct), (variant, services)].map(|(variant, servers)| OneWay {
            variant,
            loads: Rc::clone(&loads),
            servers,
        }))
    }
}

impl Side for OneWay {
    fn variant(&self) -> Variant {
        self.variant
    }

    fn address(&self, way: Way, server: Server, port: u16) -> Result<SocketAddr> {
        match way {
            Way::ClusterIp => Ok(SocketAddr::new(self.servers[server as usize], port)),
            Way::Pod | Way::Last | Way::NodePort => bail!("no way to a server here: {way:?}"),
        }
    }

    fn work(&mut self, client: Client, work: Work) -> Result<Report> {
        ensure!(client == Client::Pod, "no such client here: {client:?}");
        self.loads.borrow_mut().client.order(&Order::Work(work))?.report()
    }
}

fn command(line: &[String]) -> Result<Command> {
    let (program, arguments) = line.split_first().context("an empty command line")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

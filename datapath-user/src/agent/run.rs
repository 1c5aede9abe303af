//! Clocks, sockets and signals around the [`Controller`].

use super::{
    Controller, Kernel, KernelSettings,
    cni::{CniOptions, CniRole},
};
use crate::{
    config::LogFormat,
    datapath::{self, Datapath, PodAttacher, devices},
    health::{NumbersRequest, ServiceHealth, Telemetry, serve_health, serve_metrics},
    k8s::{
        self, Access, ConnectError, Events, Installation, News, SavedServers, SourceError, Subject,
        Warning,
    },
    model::ObjectName,
    node::{self, Conflist, PortsError},
    plan::{HealthCheck, Owner, Settings},
    roster::RosterWriter,
};
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle, JoinSet},
    time::{Instant, interval, interval_at, sleep_until},
};
use tracing::{debug, error, info, warn};

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum Objects {
    /// An API server.
    Server(Access),
    /// A folder of files.
    Folder(PathBuf),
}

/// All that the operator decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where objects come from.
    pub objects: Objects,
    /// Where the API server's addresses are remembered.
    pub saved: Option<SavedServers>,
    /// How Services are planned.
    pub plan: Settings,
    /// How the kernel side is set up.
    pub datapath: datapath::Options,
    /// How it is used.
    pub kernel: KernelSettings,
    /// What is set on the node besides.
    pub node: node::Settings,
    /// Our part in connecting pods.
    pub cni: CniOptions,
    /// Where `/healthz` is served; `None` for nowhere.
    pub health_address: Option<SocketAddr>,
    /// Where `/metrics` is served; `None` for nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// How often the maps are compared with what they should hold. What waits twice as long to be
    /// applied is a fault.
    pub sync_period: Duration,
    /// How often everything is planned anew.
    pub config_sync_period: Duration,
    /// How logs are printed.
    pub log_format: LogFormat,
    /// The DaemonSet that we are part of: an agent that ends after it removes everything.
    pub daemonset: Option<String>,
    /// Folder of what is remembered across restarts.
    pub state_dir: PathBuf,
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ports that are not ours alone.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// No way to the API server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The folder of objects.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The node's network can no longer be followed.
    #[error("the kernel's reports about the network have ended")]
    Network,
    /// Signals cannot be received.
    #[error("listening for signals: {0}")]
    Signals(io::Error),
}

/// Runs until it is asked to end. Programs, maps and links stay, unless the installation that they
/// belong to has ended.
pub async fn run(options: Options) -> Result<(), Error> {
    let not_set = node::prepare(&options.node, &options.state_dir)?;
    let client = match &options.objects {
        Objects::Server(access) => Some(k8s::connect(access).await?),
        Objects::Folder(_) => None,
    };
    let node = options.plan.node.clone();
    let events = match &client {
        Some(client) => Events::new(client.clone(), node.name()),
        None => Events::none(),
    };
    for setting in not_set {
        events.warn(Warning {
            subject: Subject::Node(node.clone()),
            reason: "SysctlNotSet",
            action: "StartDatapath",
            note: setting.to_string(),
        });
    }
    let telemetry = Arc::new(Telemetry::new(options.sync_period * 2));
    let (requests, numbers) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    if let Some(address) = options.health_address {
        tasks.spawn(serve_health(address, telemetry.clone()));
    }
    if let Some(address) = options.metrics_address {
        tasks.spawn(serve_metrics(address, telemetry.clone(), requests));
    }
    let controller = start(&options, telemetry.clone())?;
    let works = Arc::new(AtomicBool::new(controller.works()));
    let attacher = controller.kernel().pod_attacher();
    attach_early(attacher, &options.kernel.devices, works.clone(), telemetry.clone())?;
    let snapshots = devices::watch().await?;
    let (sender, news) = mpsc::channel(NEWS);
    let mut installation = None;
    if let Some(client) = client {
        let watches = k8s::watch(&client, options.plan.node.name(), &sender);
        tasks.spawn(async { drop(watches.join_all().await) });
        installation = options
            .daemonset
            .clone()
            .map(|name| tokio::spawn(async { Installation::find(client, name).await }));
    }
    if let Objects::Folder(path) = options.objects.clone() {
        tasks.spawn(follow_folder(path, sender));
    }
    let agent = Agent {
        cni: CniRole::new(&options.cni, controller.works()),
        controller,
        works: works.clone(),
        node,
        events,
        sync_period: options.sync_period,
        config_sync_period: options.config_sync_period,
        health: ServiceHealth::new(telemetry.clone()),
        checks: Vec::new(),
        telemetry,
        due: None,
        // Without a Node object nobody says that the node is leaving.
        eligible_unknown: matches!(options.objects, Objects::Folder(_)),
    };
    agent.run(news, snapshots, numbers).await?;
    works.store(false, Ordering::Relaxed);
    if let Some(Ok(installation)) = finished(installation).await
        && installation.has_ended().await
    {
        remove_all(&options);
    } else {
        info!("programs, maps and links stay in place");
    }
    Ok(())
}

/// Loads the programs and takes over what the maps hold.
fn start(options: &Options, telemetry: Arc<Telemetry>) -> Result<Controller<Datapath>, Error> {
    let mut kernel = options.kernel.clone();
    kernel.host_netns = datapath::netns_cookie().unwrap_or_else(|error| {
        warn!(%error, "host processes cannot be told from pods in the socket hooks");
        0
    });
    let maps = Datapath::load(&options.datapath)?;
    let (plan, saved) = (options.plan.clone(), options.saved.clone());
    let mut controller = Controller::new(maps, kernel, plan, telemetry, saved)?;
    controller.set_up_sockets();
    let node = options.plan.node.clone();
    controller.keep_roster(RosterWriter::new(&options.state_dir, node));
    Ok(controller)
}

/// Has the programs of new pods' interfaces attached at once, as soon as the node `works`.
/// `uplinks` are devices that are not pods', whatever they look like.
fn attach_early(
    attacher: PodAttacher,
    uplinks: &[String],
    works: Arc<AtomicBool>,
    telemetry: Arc<Telemetry>,
) -> Result<(), Error> {
    let uplinks = uplinks.to_vec();
    datapath::watch_pod_devices(move |device, since| {
        if !works.load(Ordering::Relaxed) || uplinks.contains(&device.name) {
            return;
        }
        match attacher.attach(device) {
            Ok(()) => telemetry.pod_attached(since.elapsed()),
            // It is tried again when all devices are looked at, some milliseconds later.
            Err(error) => debug!(device = device.name, %error, "programs not attached at once"),
        }
    })?;
    Ok(())
}

async fn follow_folder(path: PathBuf, news: mpsc::Sender<News>) {
    if let Err(error) = k8s::watch_folder(path, news).await {
        error!(%error, "no objects");
    }
}

/// What the task found, if it is done.
async fn finished<T>(task: Option<JoinHandle<T>>) -> Option<Result<T, JoinError>> {
    match task {
        Some(task) if task.is_finished() => Some(task.await),
        _ => None,
    }
}

/// Leaves the node as if we had never been there.
fn remove_all(options: &Options) {
    // Before anything else: from now on the node must get no pods.
    if options.cni.enabled
        && let Err(error) = Conflist::new(&options.cni.conf_dir).remove()
    {
        warn!("the container runtime is not told: {error}");
    }
    if let Err(error) = node::release(&options.state_dir) {
        warn!(%error, "ports stay reserved");
    }
    match datapath::cleanup(&options.datapath) {
        Ok(lines) => info!(removed = lines.len(), "the node is clean"),
        Err(error) => error!(%error, "not everything could be removed"),
    }
    // Its mount may be all that is left of it.
    let _ = std::fs::remove_dir_all(&options.state_dir);
}

/// The running agent.
struct Agent<K> {
    controller: Controller<K>,
    /// What [`Controller::works`] says, for the thread that attaches to new interfaces.
    works: Arc<AtomicBool>,
    telemetry: Arc<Telemetry>,
    /// This node's name.
    node: ObjectName,
    events: Events,
    sync_period: Duration,
    config_sync_period: Duration,
    health: ServiceHealth,
    /// What was last served.
    checks: Vec<HealthCheck>,
    /// When what has come in is applied.
    due: Option<Instant>,
    /// Where pods are connected as we say.
    cni: Option<CniRole>,
    /// Whether the node counts as eligible while its object is not known.
    eligible_unknown: bool,
}

impl<K: Kernel> Agent<K> {
    async fn run(
        mut self,
        mut news: mpsc::Receiver<News>,
        mut snapshots: watch::Receiver<Arc<devices::Snapshot>>,
        mut numbers: mpsc::Receiver<NumbersRequest>,
    ) -> Result<(), Error> {
        let mut terminated = signal(SignalKind::terminate()).map_err(Error::Signals)?;
        let mut interrupted = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
        let mut audit = interval(self.sync_period);
        let mut resync =
            interval_at(Instant::now() + self.config_sync_period, self.config_sync_period);
        let mut maintenance = interval(MAINTENANCE);
        let mut batch = Vec::with_capacity(BATCH);
        snapshots.mark_changed();
        loop {
            let due = self.due;
            tokio::select! {
                _ = terminated.recv() => break,
                _ = interrupted.recv() => break,
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await },
                    if due.is_some() => self.apply(),
                changed = snapshots.changed() => {
                    changed.map_err(|_closed| Error::Network)?;
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.controller.snapshot(snapshot);
                    self.set_due(DEBOUNCE);
                }
                count = news.recv_many(&mut batch, BATCH), if !news.is_closed() || !news.is_empty() => {
                    batch.drain(..).for_each(|news| self.controller.news(news));
                    if count > 0 {
                        self.set_due(DEBOUNCE);
                    }
                }
                Some(reply) = numbers.recv() => match self.controller.numbers() {
                    // Whoever asked may have gone.
                    Ok(numbers) => drop(reply.send(numbers)),
                    Err(error) => warn!(%error, "the kernel's numbers could not be read"),
                },
                _ = audit.tick() => {
                    self.controller.audit();
                    if let Some(cni) = &mut self.cni {
                        cni.recheck();
                    }
                    self.set_due(DEBOUNCE);
                    self.serve_checks();
                }
                _ = resync.tick() => {
                    self.controller.resync();
                    self.set_due(DEBOUNCE);
                }
                _ = maintenance.tick() => self.controller.maintain(),
            }
        }
        info!("ending");
        Ok(())
    }

    /// Applies what has come in some time from now, if there is anything to apply.
    fn set_due(&mut self, delay: Duration) {
        if self.controller.is_due() && self.due.is_none() {
            self.due = Some(Instant::now() + delay);
            self.telemetry.queued();
        }
    }

    fn apply(&mut self) {
        self.due = None;
        let written = self.controller.apply();
        self.works.store(self.controller.works(), Ordering::Relaxed);
        if let Some(cni) = self.cni.as_mut().filter(|_| self.controller.is_synced()) {
            cni.follow(self.controller.pod_network());
        }
        let eligible = self.controller.node().map_or(self.eligible_unknown, |node| !node.leaving);
        self.telemetry.set_eligible(eligible);
        let checks = self.controller.health_checks();
        if checks != self.checks {
            self.checks = checks;
            self.serve_checks();
        }
        for notice in self.controller.take_notices() {
            let subject = match notice.owner {
                Owner::Service(name) => Subject::Service(name),
                Owner::Pod(name) => Subject::Pod(name),
            };
            self.events.warn(Warning {
                subject,
                reason: notice.problem.reason(),
                action: "Plan",
                note: notice.problem.to_string(),
            });
        }
        if !written {
            self.set_due(RETRY);
        }
    }

    /// Serves the health checks of Services; what cannot be served is tried again with every audit.
    fn serve_checks(&mut self) {
        for (check, error) in self.health.serve(&self.checks) {
            let HealthCheck { service, port, .. } = check;
            let note = format!(
                "node {} failed to start healthcheck \"{service}\" on port {port}: {error}",
                self.node
            );
            self.events.warn(Warning {
                subject: Subject::Service(service),
                reason: "FailedToStartServiceHealthcheck",
                action: "Listen",
                note,
            });
        }
    }
}

/// How long events gather before they are applied together.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often attachments are checked and expired flows removed.
const MAINTENANCE: Duration = Duration::from_secs(10);

/// How many news may wait, and how many are taken at once.
const NEWS: usize = 1024;
const BATCH: usize = 1024;

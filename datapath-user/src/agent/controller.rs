//! The agent without its clocks, sockets and signals.

mod configure;

use super::{
    Kernel,
    words::{api_servers, network},
};
use crate::{
    datapath::{
        Device, Error, LOOPBACK,
        devices::{Selection, Snapshot, View},
    },
    health::{KernelNumbers, Telemetry},
    k8s::{News, SavedServers},
    model::{Dirty, Event, Family, Kind, Model, Node, ObjectName},
    plan::{Change, HealthCheck, KernelRoutes, Keys, Notice, Planner, PodNetwork, Settings},
    roster::RosterWriter,
};
use datapath_common::{Config, FrontendKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};
use tracing::{debug, error, info, warn};

/// What `CONFIG` and the attachments depend on besides the cluster.
#[derive(Clone, Debug, Default)]
pub struct KernelSettings {
    /// Uplinks by name; empty: the devices with the node's addresses.
    pub devices: Vec<String>,
    /// Whether the socket hooks are attached.
    pub socket_lb: bool,
    /// Cookie of the node's network namespace; 0 if unknown.
    pub host_netns: u64,
}

/// How far the agent has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The maps are empty.
    Fresh,
    /// The maps hold what an agent before left.
    TakenOver,
    /// The maps have been brought to the complete state once.
    Synced,
}

/// What sees packets of this node's own processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HostHooks {
    /// Nothing yet.
    Missing,
    /// The socket hooks.
    Sockets,
    /// The program on the loopback device, where there are no socket hooks.
    Loopback,
}

/// Joins the model, the planner and the kernel.
pub struct Controller<K> {
    kernel: K,
    settings: KernelSettings,
    model: Model,
    planner: Planner,
    telemetry: Arc<Telemetry>,
    saved: Option<SavedServers>,
    roster: Option<RosterWriter>,
    /// Kinds of objects that have to be listed before anything is removed.
    awaited: BTreeSet<Kind>,
    phase: Phase,
    /// Whether the maps must be compared as a whole.
    audit_due: bool,
    /// Whether everything must be planned anew.
    resync_due: bool,
    snapshot: Option<Arc<Snapshot>>,
    snapshot_changed: bool,
    view: View,
    /// Devices that programs are attached to, by index.
    attached: BTreeMap<u32, Device>,
    config: Option<Config>,
    /// Routes that the kernel's main table was last given.
    routes: Option<KernelRoutes>,
    host_hooks: HostHooks,
}

impl<K: Kernel> Controller<K> {
    /// Takes over what the maps hold.
    pub fn new(
        kernel: K,
        settings: KernelSettings,
        plan: Settings,
        telemetry: Arc<Telemetry>,
        saved: Option<SavedServers>,
    ) -> Result<Self, Error> {
        let maps = kernel.dump()?;
        if !maps.services.is_empty() {
            info!(services = maps.services.len(), "taking over from an agent before");
        }
        let mut awaited = BTreeSet::from([Kind::Service, Kind::Slice, Kind::Node]);
        if maps.frontends.values().any(|frontend| frontend.kind == FrontendKind::HOST_PORT) {
            awaited.insert(Kind::Pod);
        }
        Ok(Self {
            kernel,
            settings,
            model: Model::default(),
            planner: Planner::new(plan, &maps),
            telemetry,
            saved,
            roster: None,
            awaited,
            phase: if maps.services.is_empty() { Phase::Fresh } else { Phase::TakenOver },
            audit_due: false,
            resync_due: false,
            snapshot: None,
            snapshot_changed: false,
            view: View::default(),
            attached: BTreeMap::new(),
            config: None,
            routes: None,
            host_hooks: HostHooks::Missing,
        })
    }

    /// Has names written down for the commands.
    pub fn keep_roster(&mut self, roster: RosterWriter) {
        self.roster = Some(roster);
    }

    /// Attaches the socket hooks, or makes sure that they are not attached.
    pub fn set_up_sockets(&mut self) {
        if self.settings.socket_lb {
            match self.kernel.attach_sockets() {
                Ok(cgroup) => {
                    info!(cgroup = %cgroup.display(), "socket hooks attached");
                    self.host_hooks = HostHooks::Sockets;
                }
                Err(error) => warn!(%error, "no socket hooks; Services are translated by tc alone"),
            }
        } else if let Err(error) = self.kernel.detach_sockets() {
            warn!(%error, "the socket hooks could not be detached");
        }
        let addresses = &self.planner.settings().node_port_addresses;
        if self.host_hooks != HostHooks::Sockets && addresses.name_localhost() {
            warn!("no node ports on localhost: only the socket hooks can serve them there");
        }
    }

    /// Takes in news of the cluster.
    pub fn news(&mut self, news: News) {
        match news {
            News::Event(event) => {
                if let Event::Listed(kind, _) = event {
                    self.awaited.remove(&kind);
                    self.audit_due = true;
                }
                self.model.apply(event);
            }
            News::Unavailable(Kind::Service | Kind::Slice) => {}
            News::Unavailable(kind) => {
                self.awaited.remove(&kind);
            }
        }
    }

    /// Takes in news of the node's network.
    pub fn snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = Some(snapshot);
        self.snapshot_changed = true;
    }

    /// Whether [`Self::apply`] has something to do.
    pub fn is_due(&self) -> bool {
        let listed = self.awaited.is_empty();
        self.snapshot_changed
            || (listed && (!self.is_synced() || self.model.is_dirty() || self.audit_due))
            || self.resync_due
    }

    /// Brings what is known into the kernel; whether that worked. If not, [`Self::is_due`] stays
    /// true, and the next call compares the maps as a whole.
    pub fn apply(&mut self) -> bool {
        let start = Instant::now();
        let dirty =
            if self.awaited.is_empty() { self.model.take_dirty() } else { Dirty::default() };
        let mut network = Change::default();
        if self.snapshot_changed || dirty.nodes {
            network = self.update_network();
        }
        if !self.awaited.is_empty() {
            // Too early for anything but new pods on a node that works already.
            network.remove = Keys::default();
            return self.write(&network);
        }
        let full = !self.is_synced();
        let change = if std::mem::take(&mut self.resync_due) {
            self.planner.update_all(&self.model)
        } else {
            self.planner.update(&self.model, &dirty)
        };
        if full {
            self.planner.settle();
            self.audit_due = true;
        }
        let audit = std::mem::take(&mut self.audit_due);
        // The first time, the comparison alone says what is to be done.
        let mut written = full || (self.write(&network) && self.write(&change));
        if audit {
            written &= self.write_all();
        }
        if audit || self.routes.as_ref() != Some(self.planner.kernel_routes()) {
            self.set_routes();
        }
        self.set_config();
        if full && written {
            self.phase = Phase::Synced;
            self.attach();
            info!(elapsed = ?start.elapsed(), services = self.model.service_names().count(),
                "the kernel holds what the cluster says");
        }
        self.report(&dirty, full, written, start);
        written
    }

    /// Has the next [`Self::apply`] compare all that the maps hold with what they should hold.
    pub fn audit(&mut self) {
        self.audit_due |= self.is_synced();
    }

    /// Has the next [`Self::apply`] plan everything anew from the model.
    pub fn resync(&mut self) {
        self.resync_due |= self.is_synced();
    }

    /// Puts back programs that somebody detached and removes expired flows.
    pub fn maintain(&mut self) {
        if self.is_synced() {
            self.attach();
        }
        match self.kernel.ensure() {
            Ok(repairs) if repairs.total() > 0 => {
                warn!(?repairs, "somebody removed what is ours; it is back");
                self.telemetry.repaired("attachment", u64::from(repairs.total()));
            }
            Ok(_) => {}
            Err(error) => error!(%error, "attachments could not be checked"),
        }
        match self.kernel.sweep() {
            Ok(report) => {
                debug!(removed = report.removed, duration = ?report.duration, "swept flows");
                self.telemetry.swept(u64::from(report.removed));
            }
            Err(error) => error!(%error, "flows could not be swept"),
        }
    }

    /// What has come up about Services since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.planner.take_notices()
    }

    /// The health check servers that Services ask for.
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        self.planner.health_checks().collect()
    }

    /// What this node's pods are connected with, if it is known.
    pub fn pod_network(&self) -> Option<&PodNetwork> {
        self.planner.pod_network()
    }

    /// Numbers that the kernel counts.
    pub fn numbers(&self) -> Result<KernelNumbers, Error> {
        let mut stats = self.kernel.service_stats()?;
        let (pending_services, pending_slices) = self.model.pending();
        Ok(KernelNumbers {
            outcomes: self.kernel.counters()?,
            services: self
                .planner
                .labels()
                .filter_map(|(id, label)| Some((label, stats.remove(&id)?)))
                .collect(),
            maps: self.kernel.map_fill()?,
            xdp: self.kernel.xdp(),
            pending_services,
            pending_slices,
            no_local_endpoints: self.planner.no_local_endpoints(),
        })
    }

    /// This node's object, if it is known.
    pub fn node(&self) -> Option<&Node> {
        self.model.node(&self.planner.settings().node)
    }

    /// The kernel side.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Whether the node works as an agent left it, or better.
    pub fn works(&self) -> bool {
        self.phase != Phase::Fresh
    }

    /// Whether the maps have been brought to the complete state once.
    pub fn is_synced(&self) -> bool {
        self.phase == Phase::Synced
    }

    /// Looks at the node's network anew.
    fn update_network(&mut self) -> Change {
        self.snapshot_changed = false;
        let Some(snapshot) = self.snapshot.clone() else {
            return Change::default();
        };
        let node_addresses = Family::ALL
            .iter()
            .filter_map(|family| self.node().and_then(|node| node.address(*family)))
            .collect();
        let devices = self.settings.devices.clone();
        self.view = snapshot.view(&Selection { devices, node_addresses });
        if self.works() {
            // On a node that works already new pods do not wait for the API server.
            self.attach();
        }
        let network = network(&snapshot, &self.view);
        self.planner.update_network(&self.model, network)
    }

    /// Attaches the programs where they are missing and detaches them from what is neither a pod's
    /// interface nor an uplink any more. What fails is tried again by [`Self::maintain`].
    fn attach(&mut self) {
        let View { uplinks, pod_devices, .. } = &self.view;
        let wanted: BTreeMap<u32, (&Device, bool)> = pod_devices
            .iter()
            .map(|device| (device.index, (device, false)))
            .chain(uplinks.iter().map(|device| (device.index, (device, true))))
            .collect();
        let before = self.attached.len();
        self.attached.retain(|index, known| {
            wanted.get(index).is_some_and(|(device, _)| device.name == known.name)
        });
        let mut changed = before != self.attached.len();
        for (index, (device, uplink)) in &wanted {
            if self.attached.contains_key(index) {
                continue;
            }
            let attached = if *uplink {
                self.kernel.attach_uplink(device)
            } else {
                self.kernel.attach_pod(device)
            };
            match attached {
                Ok(()) => {
                    info!(device = device.name, uplink, "programs attached");
                    self.attached.insert(*index, (*device).clone());
                    changed = true;
                }
                Err(error) => warn!(device = device.name, %error, "programs not attached"),
            }
        }
        let mut keep: Vec<u32> = wanted.keys().copied().collect();
        if self.host_hooks != HostHooks::Sockets {
            keep.push(LOOPBACK);
        }
        if let Some(uplink) = uplinks.first().filter(|_| self.host_hooks == HostHooks::Missing) {
            match self.kernel.attach_loopback(&uplink.name) {
                Ok(()) => self.host_hooks = HostHooks::Loopback,
                Err(error) => warn!(%error, "this node's own processes reach no node ports"),
            }
        }
        if changed && self.is_synced() {
            match self.kernel.detach_others(&keep) {
                Ok(0) => {}
                Ok(links) => info!(links, "programs detached from other devices"),
                Err(error) => warn!(%error, "other devices could not be checked"),
            }
        }
    }

    /// Keeps the kernel's own routes in step; what fails is tried again with the next change or audit.
    fn set_routes(&mut self) {
        match self.kernel.set_routes(self.planner.kernel_routes()) {
            Ok(changed) => {
                self.routes = Some(self.planner.kernel_routes().clone());
                if changed > 0 {
                    info!(changed, "routes of the kernel changed");
                }
            }
            Err(error) => error!(%error, "the kernel's routes could not be changed"),
        }
    }

    /// Writes a change; whether that worked. If not, the maps are compared as a whole next time.
    fn write(&mut self, change: &Change) -> bool {
        if change.is_empty() {
            return true;
        }
        match self.kernel.apply(change) {
            Ok(()) => true,
            Err(error) => {
                error!(%error, "a change could not be written to the maps");
                self.telemetry.failed();
                self.audit_due = true;
                false
            }
        }
    }

    /// Writes whatever the maps lack and removes what they should not hold.
    fn write_all(&mut self) -> bool {
        let maps = match self.kernel.dump() {
            Ok(maps) => maps,
            Err(error) => {
                error!(%error, "the maps could not be read");
                self.telemetry.failed();
                self.audit_due = true;
                return false;
            }
        };
        let change = Change::between(&maps, &self.planner.tables());
        drop(maps);
        if self.is_synced() && !change.is_empty() {
            let (missing, stale) = (change.put.len(), change.remove.len());
            debug!(missing, stale, "the maps differed from what they should hold");
            self.telemetry.repaired("missing_entry", missing as u64);
            self.telemetry.repaired("stale_entry", stale as u64);
        }
        self.write(&change)
    }

    /// Tells the world about an attempt to apply.
    fn report(&self, dirty: &Dirty, full: bool, written: bool, start: Instant) {
        self.telemetry.applied(dirty, full, written, start.elapsed(), self.families());
        if let Some(roster) = &self.roster {
            roster.follow(&self.model, dirty);
        }
        let kubernetes = ObjectName::namespaced("default", "kubernetes");
        if dirty.services.contains(&kubernetes)
            && let Some(saved) = &self.saved
        {
            let urls = api_servers(&self.model, &kubernetes);
            if !urls.is_empty()
                && let Err(error) = saved.save(&urls)
            {
                warn!(%error, "the API server's addresses could not be saved");
            }
        }
    }

    /// Families that the node has addresses of.
    fn families(&self) -> Vec<Family> {
        let network = self.planner.network();
        let has = |family: &Family| network.node_address(self.node(), *family).is_some();
        Family::ALL.into_iter().filter(has).collect()
    }
}

//! The kernel: programs, maps, links. The only place with aya and unsafe.

mod attach;
mod cleanup;
mod early;
mod error;
mod kernel_routes;
mod link;
mod load;
mod loopback;
mod maps;
mod netlink;
mod pin;
mod raw_map;
mod reader;
mod sys;
mod xdp;

pub mod devices;

pub use cleanup::cleanup;
pub use devices::Device;
pub use early::{PodAttacher, watch_pod_devices};
pub use error::Error;
pub use load::{has_programs, sizable_maps};
pub use loopback::LOOPBACK;
pub use pin::prepare_bpffs;
pub use reader::{Attachment, Reader, monotonic_now};
pub use xdp::Xdp;

use crate::plan::{Change, KernelRoutes, Tables};
use attach::Attachments;
use datapath_common::{Config, Flow, Outcome, ServiceStats, Tuple};
use load::Programs;
use maps::Maps;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use pin::Layout;
use std::{
    collections::{BTreeMap, HashMap},
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How the datapath is set up on this node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder on a BPF file system for pins; one is mounted where there is none.
    pub bpffs: PathBuf,
    /// Folder of a cgroup2 hierarchy that the socket hooks are attached to; found if not given.
    pub cgroup_root: Option<PathBuf>,
    /// Whether [`Datapath::attach_sockets`] is going to be called.
    pub socket_lb: bool,
    /// Forward the programs' own log to tracing (they must have been built with it).
    pub log_datapath: bool,
    /// Attach with clsact filters even where the kernel has tcx links.
    pub force_clsact: bool,
    /// Whether and how XDP is used on uplinks.
    pub xdp: Xdp,
    /// Numbers of entries, by map name, in place of the defaults; they hold for maps that are created.
    pub map_entries: BTreeMap<String, u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf/datapath".into(),
            cgroup_root: None,
            socket_lb: true,
            log_datapath: false,
            force_clsact: false,
            xdp: Xdp::Off,
            map_entries: BTreeMap::new(),
        }
    }
}

/// What a [`Datapath::sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// What the program returned: the number of entries that it removed.
    pub removed: u32,
    /// How long it took.
    pub duration: std::time::Duration,
}

/// What a [`Datapath::ensure`] had to repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Pins of maps and links that were gone.
    pub pins: u32,
    /// Programs that were no longer attached.
    pub links: u32,
    /// Entries of `CONFIG` and `SERVICE_STATS` that were wrong.
    pub entries: u32,
}

impl Repairs {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.pins + self.links + self.entries
    }
}

/// Loaded programs, pinned maps and links.
#[derive(Debug)]
pub struct Datapath {
    options: Options,
    layout: Layout,
    programs: Arc<Programs>,
    maps: Maps,
    attachments: Arc<Mutex<Attachments>>,
    config: Option<Config>,
}

impl Datapath {
    /// Opens or creates the pinned maps and has the kernel verify all programs. Nothing that is
    /// attached is touched. Must be called in a tokio runtime if [`Options::log_datapath`] is set.
    pub fn load(options: &Options) -> Result<Self, Error> {
        load::check_kernel()?;
        prepare_bpffs(&options.bpffs)?;
        let layout = Layout::new(&options.bpffs);
        layout.create()?;
        let programs = Arc::new(load::load(options, &layout)?);
        let maps = Maps::open(&layout)?;
        let tcx = !options.force_clsact && sys::has_tcx();
        tracing::info!(
            bpffs = %options.bpffs.display(),
            tc = if tcx { "tcx" } else { "clsact" },
            socket_lb = options.socket_lb,
            "the kernel has verified the programs"
        );
        let attachments = Arc::new(Mutex::new(Attachments::new(layout.clone(), tcx)));
        let options = options.clone();
        Ok(Self { options, layout, programs, maps, attachments, config: None })
    }

    /// What the maps that the agent fills hold now.
    pub fn dump(&self) -> Result<Tables, Error> {
        self.maps.dump()
    }

    /// Writes and removes, in the order documented on [`Change`]. Statistics of services that exist
    /// already are kept.
    pub fn apply(&mut self, change: &Change) -> Result<(), Error> {
        self.maps.apply(change)
    }

    /// Makes our routes in the kernel's main table those that are wanted; returns how many were
    /// changed.
    pub fn set_routes(&mut self, wanted: &KernelRoutes) -> Result<usize, Error> {
        kernel_routes::set(wanted)
    }

    /// Writes `CONFIG`.
    pub fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        self.maps.config.put(&0, config)?;
        self.config = Some(*config);
        Ok(())
    }

    /// What attaches to new pods' interfaces at once, from another thread.
    pub fn pod_attacher(&self) -> PodAttacher {
        let Self { programs, attachments, .. } = self;
        PodAttacher { programs: Arc::clone(programs), attachments: Arc::clone(attachments) }
    }

    /// Attaches `from_pod` and `to_pod`, or swaps them in for what an earlier agent attached.
    /// Idempotent.
    pub fn attach_pod(&mut self, device: &Device) -> Result<(), Error> {
        let mut attachments = self.attachments();
        attachments.remove_xdp(&device.name)?;
        attachments.device(&self.programs, &load::POD, device.index, &device.name)
    }

    /// Attaches `from_uplink` and `to_uplink`, likewise, and then `xdp_uplink` as [`Options::xdp`] says.
    pub fn attach_uplink(&mut self, device: &Device) -> Result<(), Error> {
        let mut attachments = self.attachments();
        attachments.device(&self.programs, &load::UPLINK, device.index, &device.name)?;
        attachments.xdp(&self.programs, self.options.xdp, device)
    }

    /// Uplinks with XDP, each with the mode's name.
    pub fn xdp(&self) -> Vec<(String, &'static str)> {
        self.attachments().xdp_modes()
    }

    /// Attaches `to_uplink` to the loopback device, likewise, and has `uplink` take what it sends back
    /// to the node. `CONFIG` must have `ConfigFlags::LOOPBACK` by then.
    pub fn attach_loopback(&mut self, uplink: &str) -> Result<(), Error> {
        loopback::accept_local(uplink, true)?;
        self.attachments().device(&self.programs, &load::LOOPBACK, LOOPBACK, "lo")
    }

    /// Attaches the socket hooks to the cgroup, likewise; returns its folder.
    pub fn attach_sockets(&mut self) -> Result<PathBuf, Error> {
        let folder = pin::find_cgroup2(self.options.cgroup_root.as_deref())?;
        if let Some(config) = self.maps.config.get(&0)? {
            loopback::undo(&config)?;
        }
        self.attachments().sockets(&self.programs, &folder)?;
        Ok(folder)
    }

    /// Detaches the socket hooks, also those of an earlier agent.
    pub fn detach_sockets(&mut self) -> Result<(), Error> {
        self.attachments().remove_sockets()
    }

    /// Detaches everything from devices that are not in `keep` (by index), also what an earlier
    /// agent attached; forgets devices that are gone. Returns how many links and filters went.
    pub fn detach_others(&mut self, keep: &[u32]) -> Result<usize, Error> {
        self.attachments().remove_others(keep)
    }

    /// Runs the `sweep` program: expired flows are removed in the kernel.
    pub fn sweep(&mut self) -> Result<SweepReport, Error> {
        let start = std::time::Instant::now();
        let removed = sys::test_run(self.programs.get(load::SWEEP)?)
            .map_err(Error::system("running the program sweep"))?;
        Ok(SweepReport { removed, duration: start.elapsed() })
    }

    /// Pins and attaches again what somebody removed, and restores `CONFIG` and `SERVICE_STATS`.
    /// Missing entries of the other maps are the caller's to find, by [`Self::dump`].
    pub fn ensure(&mut self) -> Result<Repairs, Error> {
        self.layout.create()?;
        let mut repairs = self.attachments().ensure(&self.programs)?;
        repairs.pins += self.maps.repair_pins(&self.layout)?;
        repairs.entries += self.maps.repair_stats()?;
        if let Some(config) = self.config
            && self.maps.config.get(&0)? != Some(config)
        {
            self.maps.config.put(&0, &config)?;
            repairs.entries += 1;
        }
        Ok(repairs)
    }

    /// Packets and calls by outcome, over all CPUs.
    pub fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        self.maps.counters()
    }

    /// Statistics by service id, over all CPUs.
    pub fn service_stats(&self) -> Result<HashMap<u32, ServiceStats>, Error> {
        self.maps.stats()
    }

    /// The flow table.
    pub fn flows(&self) -> Result<HashMap<Tuple, Flow>, Error> {
        self.maps.flows.entries()
    }

    /// Number of entries and size of each map.
    pub fn map_fill(&self) -> Result<Vec<MapFill>, Error> {
        self.maps.fill()
    }

    fn attachments(&self) -> MutexGuard<'_, Attachments> {
        lock(&self.attachments)
    }
}

/// Locks, whatever happened to the thread that held the lock before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names of this network namespace's devices, by index.
pub fn device_names() -> Result<HashMap<u32, String>, Error> {
    Ok(attach::devices()?.into_iter().collect())
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// The map.
    pub name: &'static str,
    /// Its type as `bpftool` names it.
    pub kind: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that fit.
    pub max_entries: u32,
    /// Bytes of a key and a value.
    pub entry_size: u32,
    /// Bytes of kernel memory that it takes, as far as the kernel says.
    pub memory: Option<u64>,
}

/// The cookie of the calling process's network namespace (`SO_NETNS_COOKIE`, since Linux 5.14).
pub fn netns_cookie() -> Result<u64, Error> {
    let what = "reading the network namespace's cookie";
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|error| Error::system(what)(error.into()))?;
    sys::netns_cookie(socket.as_fd()).map_err(Error::system(what))
}

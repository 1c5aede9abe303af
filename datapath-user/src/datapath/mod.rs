//! The kernel: programs, maps, links. The only place with aya and unsafe.

mod error;

pub mod devices;

pub use devices::Device;
pub use error::Error;

use crate::plan::{Change, Tables};
use datapath_common::{Config, Flow, Outcome, ServiceStats, Tuple};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
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
pub struct Datapath {}

#[expect(unused_variables, clippy::unused_self, reason = "signatures first")]
impl Datapath {
    /// Opens or creates the pinned maps and has the kernel verify all programs. Nothing that is
    /// attached is touched.
    pub fn load(options: &Options) -> Result<Self, Error> {
        todo!()
    }

    /// What the maps that the agent fills hold now.
    pub fn dump(&self) -> Result<Tables, Error> {
        todo!()
    }

    /// Writes and removes, in the order documented on [`Change`].
    pub fn apply(&mut self, change: &Change) -> Result<(), Error> {
        todo!()
    }

    /// Writes `CONFIG`.
    pub fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        todo!()
    }

    /// Attaches `from_pod` and `to_pod`, or swaps them in for what an earlier agent attached.
    /// Idempotent.
    pub fn attach_pod(&mut self, device: &Device) -> Result<(), Error> {
        todo!()
    }

    /// Attaches `from_uplink` and `to_uplink`, likewise.
    pub fn attach_uplink(&mut self, device: &Device) -> Result<(), Error> {
        todo!()
    }

    /// Attaches the socket hooks to the cgroup, likewise; returns its folder.
    pub fn attach_sockets(&mut self) -> Result<PathBuf, Error> {
        todo!()
    }

    /// Detaches the socket hooks, also those of an earlier agent.
    pub fn detach_sockets(&mut self) -> Result<(), Error> {
        todo!()
    }

    /// Detaches everything from devices that are not in `keep` (by index), also what an earlier
    /// agent attached; forgets devices that are gone. Returns how many links went.
    pub fn detach_others(&mut self, keep: &[u32]) -> Result<usize, Error> {
        todo!()
    }

    /// Runs the `sweep` program: expired flows are removed in the kernel.
    pub fn sweep(&mut self) -> Result<SweepReport, Error> {
        todo!()
    }

    /// Pins and attaches again what somebody removed, and restores `CONFIG` and `SERVICE_STATS`.
    /// Missing entries of the other maps are the caller's to find, by [`Self::dump`].
    pub fn ensure(&mut self) -> Result<Repairs, Error> {
        todo!()
    }

    /// Packets and calls by outcome, over all CPUs.
    pub fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        todo!()
    }

    /// Statistics by service id, over all CPUs.
    pub fn service_stats(&self) -> Result<HashMap<u32, ServiceStats>, Error> {
        todo!()
    }

    /// The flow table.
    pub fn flows(&self) -> Result<Vec<(Tuple, Flow)>, Error> {
        todo!()
    }

    /// Number of entries and size of each map.
    pub fn map_fill(&self) -> Result<Vec<MapFill>, Error> {
        todo!()
    }
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
}

/// Removes every program, link, map, filter and folder of ours, whether or not an agent runs.
/// Returns a line for each thing removed.
pub fn cleanup(options: &Options) -> Result<Vec<String>, Error> {
    let _ = options;
    todo!()
}

/// The cookie of the calling process's network namespace (`SO_NETNS_COOKIE`, since Linux 5.14).
pub fn netns_cookie() -> Result<u64, Error> {
    todo!()
}

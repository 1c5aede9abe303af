//! Reading what is on the node without an agent: only pinned maps and links are looked at.

use super::{
    Error, MapFill,
    attach::{devices, entries},
    link,
    maps::Maps,
    netlink,
    pin::Layout,
    sys,
};
use crate::{datapath::load::Direction, plan::Tables};
use datapath_common::{
    Addr, Affinity, AffinityKey, Config, Flow, Outcome, ServiceStats, TunnelStats, Tuple,
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// The pinned maps, open for reading.
#[derive(Debug)]
pub struct Reader {
    layout: Layout,
    maps: Maps,
}

/// A program that is attached somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The program.
    pub program: String,
    /// The device, or `cgroup`.
    pub place: String,
    /// `tcx`, `clsact`, `cgroup`, `xdp native` or `xdp generic`.
    pub kind: &'static str,
    /// Whether it is in force; a link outlives its device.
    pub attached: bool,
}

impl Reader {
    /// Opens the maps under the folder that the agent was given.
    pub fn open(bpffs: &Path) -> Result<Self, Error> {
        let layout = Layout::new(bpffs);
        let maps = Maps::open(&layout)?;
        Ok(Self { layout, maps })
    }

    /// The maps that the agent fills.
    pub fn tables(&self) -> Result<Tables, Error> {
        self.maps.dump()
    }

    /// `CONFIG`.
    pub fn config(&self) -> Result<Option<Config>, Error> {
        self.maps.config.get(&0)
    }

    /// Packets and calls by outcome, over all CPUs.
    pub fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        self.maps.counters()
    }

    /// Statistics by service id, over all CPUs.
    pub fn service_stats(&self) -> Result<HashMap<u32, ServiceStats>, Error> {
        self.maps.stats()
    }

    /// What went through the tunnels, by the other node's address, over all CPUs.
    pub fn tunnels(&self) -> Result<HashMap<Addr, TunnelStats>, Error> {
        self.maps.tunnels()
    }

    /// The flow table.
    pub fn flows(&self) -> Result<HashMap<Tuple, Flow>, Error> {
        self.maps.flows.entries()
    }

    /// What is remembered of clients of services with session affinity.
    pub fn affinity(&self) -> Result<HashMap<AffinityKey, Affinity>, Error> {
        self.maps.affinity.entries()
    }

    /// How full each map is.
    pub fn map_fill(&self) -> Result<Vec<MapFill>, Error> {
        self.maps.fill()
    }

    /// What is attached: pinned links, and filters on this network namespace's devices.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        let links: Vec<PathBuf> = entries(&self.layout.links())?;
        let mut found = Vec::new();
        for pin in links {
            found.extend(link::describe_link(&pin)?);
        }
        for (index, name) in devices()? {
            for direction in [Direction::Ingress, Direction::Egress] {
                let filter = netlink::find(index, direction)
                    .map_err(Error::system(format!("looking at filters on {name}")))?;
                found.extend(filter.map(|filter| Attachment {
                    program: filter.program,
                    place: name.clone(),
                    kind: "clsact",
                    attached: true,
                }));
            }
        }
        found.sort_by(|a, b| (a.kind, &a.place, &a.program).cmp(&(b.kind, &b.place, &b.program)));
        Ok(found)
    }
}

/// The clock of [`Flow::last_seen`] and [`Affinity::last_used`], in nanoseconds.
pub fn monotonic_now() -> u64 {
    sys::monotonic_now()
}

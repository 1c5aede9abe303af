//! What the agent needs of the kernel side.

use crate::{
    datapath::{Datapath, Device, Error, MapFill, Repairs, SweepReport},
    plan::{Change, KernelRoutes, Tables},
};
use datapath_common::{Config, Outcome, ServiceStats};
use std::{collections::HashMap, path::PathBuf};

/// The kernel side, [`Datapath`] or a stand-in.
pub trait Kernel {
    /// What the maps hold.
    fn dump(&self) -> Result<Tables, Error>;
    /// Changes the maps, in the order documented on [`Change`].
    fn apply(&mut self, change: &Change) -> Result<(), Error>;
    /// Makes our routes in the kernel's main table those that are wanted; how many were changed.
    fn set_routes(&mut self, wanted: &KernelRoutes) -> Result<usize, Error>;
    /// Writes `CONFIG`.
    fn set_config(&mut self, config: &Config) -> Result<(), Error>;
    /// Attaches the programs to the node's end of a pod's interface.
    fn attach_pod(&mut self, device: &Device) -> Result<(), Error>;
    /// Attaches the programs to a device towards other nodes.
    fn attach_uplink(&mut self, device: &Device) -> Result<(), Error>;
    /// Attaches the program for the node's own packets to the loopback device.
    fn attach_loopback(&mut self, uplink: &str) -> Result<(), Error>;
    /// Attaches the socket hooks; the folder that they are attached to.
    fn attach_sockets(&mut self) -> Result<PathBuf, Error>;
    /// Detaches the socket hooks.
    fn detach_sockets(&mut self) -> Result<(), Error>;
    /// Detaches everything from devices that are not in `keep`.
    fn detach_others(&mut self, keep: &[u32]) -> Result<usize, Error>;
    /// Removes expired flows.
    fn sweep(&mut self) -> Result<SweepReport, Error>;
    /// Repairs pins and attachments.
    fn ensure(&mut self) -> Result<Repairs, Error>;
    /// Packets and calls by outcome.
    fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error>;
    /// Statistics by service id.
    fn service_stats(&self) -> Result<HashMap<u32, ServiceStats>, Error>;
    /// How full the maps are.
    fn map_fill(&self) -> Result<Vec<MapFill>, Error>;
    /// Uplinks with XDP, each with the mode's name.
    fn xdp(&self) -> Vec<(String, &'static str)>;
}

impl Kernel for Datapath {
    fn dump(&self) -> Result<Tables, Error> {
        self.dump()
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        self.apply(change)
    }

    fn set_routes(&mut self, wanted: &KernelRoutes) -> Result<usize, Error> {
        self.set_routes(wanted)
    }

    fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        self.set_config(config)
    }

    fn attach_pod(&mut self, device: &Device) -> Result<(), Error> {
        self.attach_pod(device)
    }

    fn attach_uplink(&mut self, device: &Device) -> Result<(), Error> {
        self.attach_uplink(device)
    }

    fn attach_loopback(&mut self, uplink: &str) -> Result<(), Error> {
        self.attach_loopback(uplink)
    }

    fn attach_sockets(&mut self) -> Result<PathBuf, Error> {
        self.attach_sockets()
    }

    fn detach_sockets(&mut self) -> Result<(), Error> {
        self.detach_sockets()
    }

    fn detach_others(&mut self, keep: &[u32]) -> Result<usize, Error> {
        self.detach_others(keep)
    }

    fn sweep(&mut self) -> Result<SweepReport, Error> {
        self.sweep()
    }

    fn ensure(&mut self) -> Result<Repairs, Error> {
        self.ensure()
    }

    fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        self.counters()
    }

    fn service_stats(&self) -> Result<HashMap<u32, ServiceStats>, Error> {
        self.service_stats()
    }

    fn map_fill(&self) -> Result<Vec<MapFill>, Error> {
        self.map_fill()
    }

    fn xdp(&self) -> Vec<(String, &'static str)> {
        self.xdp()
    }
}

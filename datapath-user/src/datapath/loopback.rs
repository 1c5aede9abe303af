//! The node's own processes without socket hooks: what they send to an address of the node stays on
//! the loopback device, so `to_uplink` stands there too. The answers that it leads to come in by the
//! uplink with the node's own address, which the kernel must be asked to take.

use super::{Error, device_names};
use crate::node::Sysctls;
use datapath_common::{Config, ConfigFlags};
use std::io;

/// Index of the loopback device of every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// Sets whether `device` takes IPv4 packets whose source is an address of the node
/// (`net.ipv4.conf.DEVICE.accept_local`). Only while `CONFIG` has `ConfigFlags::LOOPBACK`: then the
/// programs refuse such packets from the wire. A device that is gone is no error.
pub(super) fn accept_local(device: &str, accept: bool) -> Result<(), Error> {
    let name = format!("ipv4/conf/{device}/accept_local");
    match Sysctls::of_node().set(&name, u8::from(accept)) {
        Err(not_set) if not_set.error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("setting {}", not_set.name))(not_set.error))
        }
        _ => Ok(()),
    }
}

/// Takes back what [`accept_local`] has allowed under `config`, if it has.
pub(super) fn undo(config: &Config) -> Result<(), Error> {
    match device_names()?.get(&config.uplink) {
        Some(uplink) if config.flags.has(ConfigFlags::LOOPBACK) => accept_local(uplink, false),
        _ => Ok(()),
    }
}

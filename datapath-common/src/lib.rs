//! The map ABI between the kernel programs and userspace, and the packet logic that both share.
//!
//! Every type here is `#[repr(C)]`, free of implicit padding (checked by bytemuck's derive) and
//! therefore safe to hash as bytes in a kernel map. Addresses and ports are in network byte order
//! wherever they stand; everything else is in host byte order. Nothing here knows Kubernetes: a
//! *frontend* is what clients dial, a *backend* is where their packets go, a *service* is the
//! numbered thing that both belong to.
//!
//! Both address families live in the same maps: an IPv4 address is stored as its IPv4-mapped IPv6
//! address (RFC 4291, 2.5.5.2), so that there is one lookup, one program path and one planner.
#![no_std]

mod address;
pub mod checksum;
mod config;
mod flow;
mod outcome;
mod route;
mod service;
mod socket;

pub use address::{Addr, Be16, LpmKey, Protocol};
pub use config::{Config, ConfigFlags};
pub use flow::{Flow, FlowFlags, Fragment, Ports, Timeouts, Tuple};
pub use outcome::Outcome;
pub use route::{Address, AddressKind, Route, RouteKind};
pub use service::{
    Affinity, AffinityKey, Backend, BackendList, Frontend, FrontendFlags, FrontendKey,
    FrontendKind, MemberKey, Service, ServiceStats, SlotKey, SourceRangeKey,
};
pub use socket::{SocketKey, SocketPeer};

/// Version of everything in this crate. It names the bpffs folder (`v1`), so that maps of another
/// layout are never opened by mistake. Change it with any change of a key, a value or a meaning.
pub const ABI_VERSION: u32 = 1;

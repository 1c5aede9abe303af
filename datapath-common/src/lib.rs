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
mod maglev;
mod outcome;
mod route;
mod service;
mod socket;

pub use address::{Addr, Be16, LpmKey, Protocol};
pub use config::{Config, ConfigFlags};
pub use flow::{Flow, FlowFlags, Fragment, Ports, Timeouts, Tuple};
pub use maglev::{MAGLEV_SIZE, MaglevTable, maglev_entry, mix};
pub use outcome::Outcome;
pub use route::{Address, AddressKind, Route, RouteKind, TunnelStats, tunnel_overhead};
pub use service::{
    Affinity, AffinityKey, Backend, BackendList, Frontend, FrontendFlags, FrontendKey,
    FrontendKind, MemberKey, Service, ServiceStats, SlotKey, SourceRangeKey,
};
pub use socket::{SocketKey, SocketPeer};

/// Version of everything in this crate. It names the bpffs folder (`v1`), so that maps of another
/// layout are never opened by mistake. Change it with any change of a key, a value or a meaning.
pub const ABI_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes that ARCHITECTURE.md lists. A change of one is a change of [`ABI_VERSION`].
    #[test]
    fn the_abi_has_the_documented_sizes() {
        for (name, actual, documented) in [
            ("Config", size_of::<Config>(), 88),
            ("FrontendKey", size_of::<FrontendKey>(), 20),
            ("Frontend", size_of::<Frontend>(), 28),
            ("SlotKey", size_of::<SlotKey>(), 8),
            ("MemberKey", size_of::<MemberKey>(), 8),
            ("MaglevTable", size_of::<MaglevTable>(), 32_700),
            ("Backend", size_of::<Backend>(), 24),
            ("Service", size_of::<Service>(), 192),
            ("SourceRangeKey", size_of::<SourceRangeKey>(), 24),
            ("Addr", size_of::<Addr>(), 16),
            ("Address", size_of::<Address>(), 28),
            ("LpmKey", size_of::<LpmKey>(), 20),
            ("Route", size_of::<Route>(), 24),
            ("Tuple", size_of::<Tuple>(), 40),
            ("Flow", size_of::<Flow>(), 80),
            ("Fragment", size_of::<Fragment>(), 40),
            ("AffinityKey", size_of::<AffinityKey>(), 20),
            ("Affinity", size_of::<Affinity>(), 16),
            ("SocketKey", size_of::<SocketKey>(), 32),
            ("SocketPeer", size_of::<SocketPeer>(), 24),
            ("ServiceStats", size_of::<ServiceStats>(), 24),
            ("TunnelStats", size_of::<TunnelStats>(), 32),
        ] {
            assert_eq!(actual, documented, "{name}");
        }
    }
}

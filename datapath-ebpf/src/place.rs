//! Where an address lives, looked up once for each packet.

use crate::{maps, skb::longest_prefix};
use datapath_common::{Addr, Address, AddressKind, LpmKey, Route, RouteKind};

/// What this node knows of an address.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// A pod of this node.
    Pod(&'static Address),
    /// The node itself.
    Host(&'static Address),
    /// Pods of another node.
    Remote(&'static Route),
    /// Pods of another node, behind a tunnel.
    Tunnel(&'static Route),
    /// A range set aside for services.
    Service,
    /// One of the addresses of this node's pods, but no pod that we know has it.
    Vacant,
    /// Anything else.
    Elsewhere,
}

impl Place {
    /// Looks the address up.
    #[inline(always)]
    pub(crate) fn of(addr: &Addr) -> Self {
        if let Some(here) = maps::address(addr) {
            return match here.kind {
                AddressKind::POD => Self::Pod(here),
                _ => Self::Host(here),
            };
        }
        match route(addr) {
            Some(range) if range.kind == RouteKind::REMOTE => Self::Remote(range),
            Some(range) if range.kind == RouteKind::SERVICE => Self::Service,
            Some(range) if range.kind == RouteKind::LOCAL => Self::Vacant,
            Some(range) if range.kind == RouteKind::TUNNEL => Self::Tunnel(range),
            _ => Self::Elsewhere,
        }
    }

    /// What lives on this node under the address.
    #[inline(always)]
    pub(crate) fn here(self) -> Option<&'static Address> {
        match self {
            Self::Pod(here) | Self::Host(here) => Some(here),
            _ => None,
        }
    }

    /// Whether pods live there, of whichever node.
    #[inline(always)]
    pub(crate) fn is_pod(self) -> bool {
        matches!(self, Self::Pod(_) | Self::Remote(_) | Self::Tunnel(_))
    }
}

/// Whether the address is one of the node itself.
#[inline(always)]
pub(crate) fn is_host(addr: &Addr) -> bool {
    maps::address(addr).is_some_and(|here| here.kind == AddressKind::HOST)
}

/// The range that the address is in.
#[inline(always)]
pub(crate) fn route(addr: &Addr) -> Option<&'static Route> {
    longest_prefix(&maps::ROUTES, &LpmKey::host(*addr))
}

/// Whether the cluster has the address: one of this node, or in a range that we know.
#[inline(never)] // Its key would count against the stack of every path.
pub(crate) fn is_known(addr: &Addr) -> bool {
    maps::address(addr).is_some() || route(addr).is_some()
}

/// Whether the address is in a range of another node's pods: enough to know of one that comes from
/// outside, where no address of this node does.
#[inline(always)]
pub(crate) fn is_remote(addr: &Addr) -> bool {
    route(addr).is_some_and(|range| matches!(range.kind, RouteKind::REMOTE | RouteKind::TUNNEL))
}

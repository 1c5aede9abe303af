//! What the programs must know of their node.

use crate::{Addr, Timeouts};
use bytemuck::{Pod, Zeroable};

/// Switches of [`Config`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct ConfigFlags(pub u32);

impl ConfigFlags {
    /// Pod-to-pod packets are carried by us where `ADDRESSES` and `ROUTES` say so; without the
    /// flag the node's own network carries them, and we only translate.
    pub const NATIVE_ROUTING: Self = Self(1 << 0);
    /// `LOCAL_CLIENTS` says which sources count as pods; without it no source does.
    pub const LOCAL_DETECTOR: Self = Self(1 << 1);

    /// `to_uplink` also stands on the node's loopback device, and its uplink takes packets that carry
    /// the node's own address as their source (`accept_local`): we must keep such packets out that
    /// come from the wire.
    pub const LOOPBACK: Self = Self(1 << 2);

    /// Which clients count as pods is told by `LOCAL_DEVICES`, not by `LOCAL_CLIENTS`.
    pub const LOCAL_BY_DEVICE: Self = Self(1 << 3);
    /// Every process in a pod of this node counts as one over IPv4; else the socket hooks cannot
    /// know.
    pub const ALL_PODS_V4: Self = Self(1 << 4);
    /// Likewise over IPv6.
    pub const ALL_PODS_V6: Self = Self(1 << 5);
    /// The node's own processes reach node ports at 127.0.0.0/8.
    pub const LOCALHOST_V4: Self = Self(1 << 6);
    /// Likewise at `::1`.
    pub const LOCALHOST_V6: Self = Self(1 << 7);

    /// IP in IP that is addressed to this node is ours: unwrapped if it comes from a node whose address
    /// stands in `ROUTES`, dropped otherwise.
    pub const TUNNELS: Self = Self(1 << 8);

    /// What pods of this node send out of the cluster leaves with the node's address.
    pub const MASQUERADE_OUTSIDE: Self = Self(1 << 9);

    /// Whether all bits of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The only entry of the array `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Config {
    /// Network namespace cookie of the node (`SO_NETNS_COOKIE`, since Linux 5.14): tells host
    /// processes from pods in the socket hooks. 0 if unknown.
    pub host_netns: u64,
    /// The node's IPv4 address, source of masqueraded packets.
    pub node_v4: Addr,
    /// The node's IPv6 address, likewise.
    pub node_v6: Addr,
    /// Index of the device with the node's address.
    pub uplink: u32,
    /// Switches.
    pub flags: ConfigFlags,
    /// First source port (host byte order) given to a masqueraded flow.
    pub port_min: u16,
    /// Last such port, included.
    pub port_max: u16,
    /// MAC address of the uplink.
    pub uplink_mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
    /// When flows are forgotten.
    pub timeouts: Timeouts,
}

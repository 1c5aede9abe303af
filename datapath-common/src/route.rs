//! Where addresses live: on this node, or behind another one.

use crate::{Addr, LpmKey};
use bytemuck::{Pod, Zeroable};

/// What a single address of this node is.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct AddressKind(pub u8);

impl AddressKind {
    /// A pod on this node, behind [`Address::device`].
    pub const POD: Self = Self(1);
    /// An address of the node itself.
    pub const HOST: Self = Self(2);
}

/// Value of `ADDRESSES`, whose key is the [`Addr`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct Address {
    /// Pod: the address that the pod sees as its node, the source of masqueraded packets to it
    /// (`10.10.3.1` on a ptp interface); unspecified if there is none.
    pub gateway: Addr,
    /// Pod: index of the node's end of the pod's interface.
    pub device: u32,
    /// Pod: the pod's MAC address; zeros if it is not known, which leaves packets' MACs alone.
    pub mac: [u8; 6],
    /// What the address is.
    pub kind: AddressKind,
    /// Bits as named below.
    pub flags: u8,
}

impl Address {
    /// Host: node ports are served on this address.
    pub const NODE_PORT: u8 = 1 << 0;
}

/// What a range of addresses is.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct RouteKind(pub u8);

impl RouteKind {
    /// Pods of another node, reached natively through [`Route::next_hop`].
    pub const REMOTE: Self = Self(1);
    /// This node's own pods; an address in it that `ADDRESSES` lacks is nobody's, unless the kernel
    /// has it on this node.
    pub const LOCAL: Self = Self(2);
    /// Addresses set aside for services; one that is no frontend is dropped.
    pub const SERVICE: Self = Self(3);
    /// Pods of another node, reached wrapped in an IP packet to [`Route::next_hop`].
    pub const TUNNEL: Self = Self(4);
    /// The address of another node, whose tunnels end at [`Route::next_hop`].
    pub const PEER: Self = Self(5);
    /// Pods of the node at [`Route::next_hop`], which the cluster's own network carries packets to.
    pub const FOREIGN: Self = Self(6);
}

/// Bytes of the IP header (RFC 791, RFC 8200) that wraps packets to the node `next_hop`.
pub const fn tunnel_overhead(next_hop: Addr) -> u16 {
    if next_hop.is_v4() { 20 } else { 40 }
}

/// What went through the tunnels to and from a node. Value of `TUNNELS`, whose key is the node's
/// [`Addr`]. Packets and bytes are those of the inner packets, as they stand in the skb.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable, Default)]
pub struct TunnelStats {
    /// Packets wrapped.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets unwrapped.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// Value of the longest-prefix map `ROUTES`, whose key is an [`LpmKey`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct Route {
    /// The node's address that packets are sent to: the next hop, or the tunnel's other end.
    pub next_hop: Addr,
    /// Index of the device that they leave by.
    pub device: u32,
    /// Largest IP packet in bytes that fits the way there, before it is wrapped.
    pub mtu: u16,
    /// What the range is.
    pub kind: RouteKind,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<LpmKey>() == 20 && size_of::<Route>() == 24);

//! Frontends, backends and the lists between them.
//!
//! `FRONTENDS` (address, port, protocol) → lists of backends → `SLOTS` (list, index) → backend id →
//! `BACKENDS`. A change of endpoints writes a whole new list under a number not yet in use, swaps
//! the frontends over to it one map update each, then removes the old list: a reader sees the old
//! list or the new one, never half of each.

use crate::{Addr, Be16, Protocol};
use bytemuck::{Pod, Zeroable};

/// What a client dials. Key of `FRONTENDS`.
///
/// - A *node port* is keyed with the wildcard address of its family, and looked up when the packet's
///   destination is an address of this node that is flagged [`crate::Address::NODE_PORT`].
/// - A loopback address counts for the node's own sockets only, never for a packet.
/// - Port 0 with [`Protocol::ANY`] stands for every unserved port of an address that we own.
/// - What another node passes on as its client has sent it has keys of its own, see
///   [`FrontendKey::passed_on`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct FrontendKey {
    /// Destination address.
    pub addr: Addr,
    /// Destination port.
    pub port: Be16,
    /// Protocol.
    pub protocol: Protocol,
    /// Where the packet comes from: 0, or [`FrontendKey::PASSED_ON`].
    pub origin: u8,
}

impl FrontendKey {
    /// [`FrontendKey::origin`] of what comes wrapped from another node, which has left the choice of the
    /// backend to us.
    pub const PASSED_ON: u8 = 1;

    /// The frontend at `addr:port/protocol`.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Be16, protocol: Protocol) -> Self {
        Self { addr, port, protocol, origin: 0 }
    }

    /// The entry for every unserved port of `addr`.
    #[inline(always)]
    pub const fn any_port(addr: Addr) -> Self {
        Self::new(addr, Be16(0), Protocol::ANY)
    }

    /// The same frontend for packets that another node passes on. Its lists hold only what is on this
    /// node. A node port is looked up where the destination is an address of another node.
    #[must_use]
    #[inline(always)]
    pub const fn passed_on(self) -> Self {
        Self { origin: Self::PASSED_ON, ..self }
    }
}

/// What kind of frontend this is; for people, and for node ports that are passed on.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct FrontendKind(pub u8);

impl FrontendKind {
    /// A cluster address.
    pub const CLUSTER_IP: Self = Self(0);
    /// A port of the node.
    pub const NODE_PORT: Self = Self(1);
    /// An external address.
    pub const EXTERNAL_IP: Self = Self(2);
    /// An address of a load balancer.
    pub const LOAD_BALANCER: Self = Self(3);
    /// A port of the node that belongs to one pod.
    pub const HOST_PORT: Self = Self(4);

    /// The name that people know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CLUSTER_IP => "ClusterIP",
            Self::NODE_PORT => "NodePort",
            Self::EXTERNAL_IP => "ExternalIP",
            Self::LOAD_BALANCER => "LoadBalancer",
            Self::HOST_PORT => "HostPort",
            _ => "unknown",
        }
    }
}

/// How a frontend treats its clients. Clients come in three classes: a *pod* (the local detector
/// knows its address), the *host* (a process in this node's own network namespace) and *outside*.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct FrontendFlags(pub u16);

impl FrontendFlags {
    /// The source address of pods is replaced by the node's.
    pub const MASQUERADE_POD: Self = Self(1 << 0);
    /// The source address of host processes is replaced by the node's.
    pub const MASQUERADE_HOST: Self = Self(1 << 1);
    /// The source address of outside clients is replaced by the node's.
    pub const MASQUERADE_OUTSIDE: Self = Self(1 << 2);
    /// An empty `inside` list drops; without the flag it rejects.
    pub const DROP_INSIDE: Self = Self(1 << 3);
    /// An empty `outside` list drops; without the flag it rejects.
    pub const DROP_OUTSIDE: Self = Self(1 << 4);
    /// Only sources listed in `SOURCE_RANGES` for this service may use the frontend.
    pub const SOURCE_RANGES: Self = Self(1 << 5);
    /// Backends are chosen by the tables in `MAGLEV`, not at random.
    pub const MAGLEV: Self = Self(1 << 6);
    /// Direct server return: what comes from outside for a backend on another node is passed on to that
    /// node as it is, and that node answers the client.
    pub const DSR: Self = Self(1 << 7);

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

/// A list of backends: `SLOTS` holds an entry for (`id`, 0) to (`id`, `count` - 1).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable, Default)]
pub struct BackendList {
    /// Number of the list; 0 for the empty list.
    pub id: u32,
    /// How many backends it has.
    pub count: u32,
}

/// Value of `FRONTENDS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct Frontend {
    /// The service that this frontend belongs to; 0 in the any-port entry of an address.
    pub service: u32,
    /// Backends for clients of this node: pods and host processes.
    pub inside: BackendList,
    /// Backends for all others.
    pub outside: BackendList,
    /// Session affinity by client address, in seconds; 0 for none.
    pub affinity: u32,
    /// See [`FrontendFlags`].
    pub flags: FrontendFlags,
    /// See [`FrontendKind`].
    pub kind: FrontendKind,
    /// Zero.
    pub pad: u8,
}

/// Key of `SLOTS`; the value is the backend's id.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct SlotKey {
    /// Number of the list.
    pub list: u32,
    /// Position in the list, from 0.
    pub index: u32,
}

/// Key of `MEMBERS`: the entry exists if the backend is in the list. Written only for lists of
/// services with session affinity, which must know whether a remembered backend still counts.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct MemberKey {
    /// Number of the list.
    pub list: u32,
    /// Id of the backend.
    pub backend: u32,
}

/// Value of `BACKENDS`, whose key is the backend's id (from 1).
///
/// A backend belongs to one service. The entry exists as long as the endpoint serves, even where no
/// list holds it any more (it is terminating): datagram flows to it live exactly as long.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct Backend {
    /// Address of the endpoint.
    pub addr: Addr,
    /// Port of the endpoint.
    pub port: Be16,
    /// Protocol.
    pub protocol: Protocol,
    /// Zero.
    pub pad: u8,
    /// The service that it belongs to.
    pub service: u32,
}

/// Value of `SERVICES`, whose key is the service's id (from 1). The programs do not read it: it
/// keeps ids stable over restarts and lets tools name things while no agent runs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Service {
    /// UTF-8, ended by zeros: whatever userspace calls the service.
    pub label: [u8; 192],
}

/// Value of `SERVICE_STATS` (per CPU), whose key is the service's id.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable, Default)]
pub struct ServiceStats {
    /// New flows translated by tc.
    pub flows: u64,
    /// Connections and datagram destinations translated by the socket hooks.
    pub sockets: u64,
    /// Packets that met an empty list.
    pub refused: u64,
}

/// Key of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct AffinityKey {
    /// The client's address.
    pub client: Addr,
    /// The service.
    pub service: u32,
}

/// Value of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Affinity {
    /// `CLOCK_MONOTONIC` nanoseconds of the client's last new flow.
    pub last_used: u64,
    /// The backend that it went to.
    pub backend: u32,
    /// Zero.
    pub pad: u32,
}

/// Key of the longest-prefix map `SOURCE_RANGES`: the service's 32 bits always count.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct SourceRangeKey {
    /// 32 plus the prefix length as in [`crate::LpmKey`].
    pub prefix_len: u32,
    /// The service.
    pub service: u32,
    /// First address of the range.
    pub addr: Addr,
}

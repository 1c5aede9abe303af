//! From what a client dials to the backend that it gets.

use crate::{
    hook::Hook,
    maps::{
        AFFINITY, LOCAL_CLIENTS, LOCAL_DEVICES, MAGLEV, MEMBERS, SLOTS, SOURCE_RANGES, address,
        backend, config, frontend,
    },
    place::Place,
    skb::longest_prefix,
};
use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_coarse_ns};
use datapath_common::{
    Addr, Address, AddressKind, Affinity, AffinityKey, Backend, BackendList, Config, ConfigFlags,
    Frontend, FrontendFlags, FrontendKey, LpmKey, MemberKey, SlotKey, SourceRangeKey, Tuple,
    maglev_entry,
};

/// Nanoseconds of `CLOCK_MONOTONIC`, exact to some milliseconds and cheap.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a plain call.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// A random number below `bound`, uniform to one part in 2^32 / `bound`.
#[inline(always)]
pub(crate) fn random(bound: u32) -> u32 {
    // SAFETY: a plain call.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    ((random * u64::from(bound)) >> 32) as u32
}

/// The frontend that serves the packet's destination: its own, or a node port if the destination is
/// an address of this node. What loopback addresses serve is for the node's own sockets: a packet
/// to one of them comes from somebody who has no business there, or could not be answered.
#[inline(always)]
pub(crate) fn find(tuple: &Tuple, place: impl FnOnce() -> Place) -> Option<&'static Frontend> {
    if tuple.dst.is_loopback() {
        return None;
    }
    let key = FrontendKey::new(tuple.dst, tuple.ports.dst, tuple.protocol);
    if let Some(found) = frontend(&key) {
        return Some(found);
    }
    match place() {
        Place::Host(here) if here.flags & Address::NODE_PORT != 0 => node_port(&key),
        _ => None,
    }
}

/// The node port with the key's port and protocol.
#[inline(always)]
pub(crate) fn node_port(key: &FrontendKey) -> Option<&'static Frontend> {
    frontend(&FrontendKey { addr: key.addr.wildcard(), ..*key })
}

/// Where a client is, which decides between the lists of a frontend and about its source address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// A pod of this node whose address the local detector knows.
    Pod,
    /// A process in the node's own network namespace.
    Host,
    /// Anyone else.
    Outside,
}

impl Client {
    /// The class of the sender of a packet that came in by `device`.
    #[inline(always)]
    pub(crate) fn of(src: &Addr, hook: Hook, device: u32) -> Self {
        if hook == Hook::ToUplink {
            return Self::Host;
        }
        // A pod of another node is a client from outside: for it, the local endpoints count.
        if hook == Hook::FromPod && config().is_some_and(|config| is_local(config, src, device)) {
            return Self::Pod;
        }
        match address(src) {
            Some(here) if here.kind == AddressKind::HOST => Self::Host,
            _ => Self::Outside,
        }
    }

    /// Whether the frontend treats both classes alike.
    #[inline(always)]
    pub(crate) fn is_as(self, other: Self, frontend: &Frontend) -> bool {
        self.list(frontend).id == other.list(frontend).id
            && self.drops(frontend.flags) == other.drops(frontend.flags)
            && self.masqueraded(frontend.flags) == other.masqueraded(frontend.flags)
    }

    /// The backends that are for this client.
    #[inline(always)]
    pub(crate) fn list(self, frontend: &Frontend) -> BackendList {
        if self == Self::Outside { frontend.outside } else { frontend.inside }
    }

    /// Whether an empty list drops instead of rejecting.
    #[inline(always)]
    pub(crate) fn drops(self, flags: FrontendFlags) -> bool {
        flags.has(match self {
            Self::Outside => FrontendFlags::DROP_OUTSIDE,
            Self::Pod | Self::Host => FrontendFlags::DROP_INSIDE,
        })
    }

    /// Whether the client's address is hidden from the backend.
    #[inline(always)]
    pub(crate) fn masqueraded(self, flags: FrontendFlags) -> bool {
        flags.has(match self {
            Self::Pod => FrontendFlags::MASQUERADE_POD,
            Self::Host => FrontendFlags::MASQUERADE_HOST,
            Self::Outside => FrontendFlags::MASQUERADE_OUTSIDE,
        })
    }
}

/// Whether the detector counts the client among this node's pods.
#[inline(always)]
fn is_local(config: &Config, src: &Addr, device: u32) -> bool {
    if config.flags.has(ConfigFlags::LOCAL_BY_DEVICE) {
        // SAFETY: only its being there counts.
        return unsafe { LOCAL_DEVICES.get(&device) }.is_some();
    }
    config.flags.has(ConfigFlags::LOCAL_DETECTOR)
        && longest_prefix::<_, _, u8>(&LOCAL_CLIENTS, &LpmKey::host(*src)).is_some()
}

/// Whether the frontend's source ranges let this client in.
#[inline(always)]
pub(crate) fn admits(frontend: &Frontend, src: &Addr) -> bool {
    if !frontend.flags.has(FrontendFlags::SOURCE_RANGES) {
        return true;
    }
    let key = SourceRangeKey { prefix_len: 32 + 128, service: frontend.service, addr: *src };
    longest_prefix::<_, _, u8>(&SOURCE_RANGES, &key).is_some()
}

/// One of the list's backends, each as likely as the others.
#[inline(always)]
pub(crate) fn pick(list: BackendList) -> Option<(u32, &'static Backend)> {
    slot(list, random(list.count))
}

/// The backend at a position of the list.
#[inline(always)]
fn slot(list: BackendList, index: u32) -> Option<(u32, &'static Backend)> {
    let key = SlotKey { list: list.id, index };
    // SAFETY: entries are replaced, never changed in place.
    let id = *unsafe { SLOTS.get(&key) }?;
    Some((id, backend(id)?))
}

/// The backend that every node would choose for the packet, where the frontend wants that.
#[inline(always)]
fn agreed(
    frontend: &Frontend,
    list: BackendList,
    tuple: &Tuple,
) -> Option<(u32, &'static Backend)> {
    if !frontend.flags.has(FrontendFlags::MAGLEV) {
        return None;
    }
    // SAFETY: as in `slot`.
    let table = unsafe { MAGLEV.get(&list.id) }?;
    let entry = maglev_entry(tuple, frontend.affinity != 0);
    slot(list, u32::from(*table.entries.get(entry as usize)?))
}

/// One that all nodes agree on where there is a packet to agree on, or else any.
#[inline(always)]
fn choose(
    frontend: &Frontend,
    list: BackendList,
    packet: Option<&Tuple>,
) -> Option<(u32, &'static Backend)> {
    packet.and_then(|tuple| agreed(frontend, list, tuple)).or_else(|| pick(list))
}

/// The backend for a new flow of `client`: its last one under session affinity, else one that all nodes
/// agree on or any, as the frontend says. Without a packet there is nothing that they could agree on.
#[inline(always)]
pub(crate) fn select(
    frontend: &Frontend,
    list: BackendList,
    client: &Addr,
    packet: Option<&Tuple>,
) -> Option<(u32, &'static Backend)> {
    if frontend.affinity == 0 {
        return choose(frontend, list, packet);
    }
    let key = AffinityKey { client: *client, service: frontend.service };
    let now = now();
    let (id, chosen) = match remembered(&key, frontend.affinity, list, now) {
        Some(found) => found,
        None => choose(frontend, list, packet)?,
    };
    // The time starts anew with every new flow. A full table only forgets another client.
    let _ = AFFINITY.insert(&key, &Affinity { last_used: now, backend: id, pad: 0 }, 0);
    Some((id, chosen))
}

#[inline(always)]
fn remembered(
    key: &AffinityKey,
    seconds: u32,
    list: BackendList,
    now: u64,
) -> Option<(u32, &'static Backend)> {
    // SAFETY: copied at once.
    let affinity = *unsafe { AFFINITY.get(key) }?;
    if now.saturating_sub(affinity.last_used) > u64::from(seconds) * 1_000_000_000 {
        return None;
    }
    let member = MemberKey { list: list.id, backend: affinity.backend };
    // SAFETY: only its being there counts.
    unsafe { MEMBERS.get(&member) }?;
    Some((affinity.backend, backend(affinity.backend)?))
}

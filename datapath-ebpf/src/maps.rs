//! Every map of the programs. Sizes are upper bounds that the loader may lower or raise.
//!
//! | map | key → value | written by | read by |
//! |---|---|---|---|
//! | `CONFIG` | 0 → [`Config`] | agent | all programs |
//! | `FRONTENDS` | [`FrontendKey`] → [`Frontend`] | agent | tc, socket |
//! | `SLOTS` | [`SlotKey`] → backend id | agent | tc, socket |
//! | `MEMBERS` | [`MemberKey`] → 0 | agent | tc |
//! | `MAGLEV` | number of a list → [`MaglevTable`] | agent | tc |
//! | `BACKENDS` | id → [`Backend`] | agent | tc, socket |
//! | `SERVICES` | id → [`Service`] | agent | tools |
//! | `SOURCE_RANGES` | [`SourceRangeKey`] → 0 | agent | tc |
//! | `ADDRESSES` | [`Addr`] → [`Address`] | agent | tc, socket |
//! | `ROUTES` | [`LpmKey`] → [`Route`] | agent | tc |
//! | `LOCAL_CLIENTS` | [`LpmKey`] → 0 | agent | tc |
//! | `LOCAL_DEVICES` | index of a device → 0 | agent | tc |
//! | `NON_MASQUERADE` | [`LpmKey`] → 0 | agent | tc |
//! | `FLOWS` | [`Tuple`] → [`Flow`] | tc | tc, sweep, tools |
//! | `FRAGMENTS` | [`Fragment`] → [`Ports`] | tc | tc |
//! | `AFFINITY` | [`AffinityKey`] → [`Affinity`] | tc | tc |
//! | `SOCKETS` | [`SocketKey`] → [`SocketPeer`] | socket | socket |
//! | `SERVICE_STATS` | id → [`ServiceStats`], per CPU | agent creates, tc and socket count | tools |
//! | `TUNNELS` | [`Addr`] of a node → [`TunnelStats`], per CPU | tc | tools |
//! | `PACKET` | [`TC`] or [`XDP`] → [`Packet`], per CPU | tc, XDP | tc, XDP |
//! | `COUNTERS` | [`Outcome`] → packets, per CPU | all programs | tools |

use crate::packet::Packet;
use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap},
    macros::btf_map,
};
use datapath_common::{
    Addr, Address, Affinity, AffinityKey, Backend, Config, Flow, Fragment, Frontend, FrontendKey,
    MaglevTable, MemberKey, Outcome, Ports, Route, Service, ServiceStats, SlotKey, SocketKey,
    SocketPeer, TunnelStats, Tuple,
};

/// Tables that the agent fills grow with the cluster: they take memory as they fill.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend, 262_144, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static SLOTS: HashMap<SlotKey, u32, 1_048_576, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static MEMBERS: HashMap<MemberKey, u8, 262_144, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static MAGLEV: HashMap<u32, MaglevTable, 4_096, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static BACKENDS: HashMap<u32, Backend, 1_048_576, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static SERVICES: HashMap<u32, Service, 131_072, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static SOURCE_RANGES: LpmTrie<[u32; 5], u8, 131_072> = LpmTrie::new();
#[btf_map]
pub(crate) static ADDRESSES: HashMap<Addr, Address, 16_384, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static ROUTES: LpmTrie<Addr, Route, 65_536> = LpmTrie::new();
#[btf_map]
pub(crate) static LOCAL_CLIENTS: LpmTrie<Addr, u8, 65_536> = LpmTrie::new();
#[btf_map]
pub(crate) static LOCAL_DEVICES: HashMap<u32, u8, 4_096, SPARSE> = HashMap::new();
#[btf_map]
pub(crate) static NON_MASQUERADE: LpmTrie<Addr, u8, 65_536> = LpmTrie::new();
#[btf_map]
pub(crate) static FLOWS: LruHashMap<Tuple, Flow, 262_144> = LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<Fragment, Ports, 8_192> = LruHashMap::new();
#[btf_map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, 65_536> = LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketPeer, 65_536> = LruHashMap::new();
#[btf_map]
pub(crate) static SERVICE_STATS: PerCpuHashMap<u32, ServiceStats, 131_072, SPARSE> =
    PerCpuHashMap::new();
#[btf_map]
pub(crate) static TUNNELS: PerCpuHashMap<Addr, TunnelStats, 16_384, SPARSE> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Outcome::COUNT }> = PerCpuArray::new();
/// The packet at hand. Not on the stack, which has 512 bytes in all; tc programs run with soft
/// interrupts off, so each CPU works on one packet at a time; so do XDP programs.
#[btf_map]
pub(crate) static PACKET: PerCpuArray<Packet, 2> = PerCpuArray::new();
/// Key of `PACKET` for tc programs.
pub(crate) const TC: u32 = 0;
/// Key of `PACKET` for XDP programs.
pub(crate) const XDP: u32 = 1;

/// The node's configuration; all zeros until the agent has written it.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// What the address is on this node.
#[inline(always)]
pub(crate) fn address(addr: &Addr) -> Option<&'static Address> {
    // SAFETY: entries are replaced, never changed in place, and freed after the program has ended.
    unsafe { ADDRESSES.get(addr) }
}

/// The frontend at exactly this key.
#[inline(always)]
pub(crate) fn frontend(key: &FrontendKey) -> Option<&'static Frontend> {
    // SAFETY: as for `address`.
    unsafe { FRONTENDS.get(key) }
}

/// The backend with this id, if it still serves.
#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<&'static Backend> {
    // SAFETY: as for `address`.
    unsafe { BACKENDS.get(&id) }
}

/// Counts what happened.
#[inline(always)]
pub(crate) fn count(outcome: Outcome) {
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome as u32) {
        // SAFETY: the entry is this CPU's own.
        unsafe { *counter += 1 }
    }
}

/// Counts for a service.
#[inline(always)]
pub(crate) fn count_service(service: u32, change: impl FnOnce(&mut ServiceStats)) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(&service) {
        // SAFETY: the entry is this CPU's own.
        change(unsafe { &mut *stats });
    }
}

/// Counts for the tunnels of a node.
#[inline(always)]
pub(crate) fn count_tunnel(node: &Addr, change: impl FnOnce(&mut TunnelStats)) {
    let mut stats = TUNNELS.get_ptr_mut(node);
    if stats.is_none() {
        // Should it fail, another program was faster, or the packet goes uncounted.
        let _ = TUNNELS.insert(node, &TunnelStats::default(), BPF_NOEXIST.into());
        stats = TUNNELS.get_ptr_mut(node);
    }
    if let Some(stats) = stats {
        // SAFETY: the entry is this CPU's own.
        change(unsafe { &mut *stats });
    }
}

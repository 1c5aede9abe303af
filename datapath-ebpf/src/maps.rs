//! Every map of the programs. Sizes are upper bounds that the loader may lower or raise.
//!
//! | map | key → value | written by | read by |
//! |---|---|---|---|
//! | `CONFIG` | 0 → [`Config`] | agent | all programs |
//! | `FRONTENDS` | [`FrontendKey`] → [`Frontend`] | agent | tc, socket |
//! | `SLOTS` | [`SlotKey`] → backend id | agent | tc, socket |
//! | `MEMBERS` | [`MemberKey`] → 0 | agent | tc |
//! | `BACKENDS` | id → [`Backend`] | agent | tc, socket |
//! | `SERVICES` | id → [`Service`] | agent | tools |
//! | `SOURCE_RANGES` | [`SourceRangeKey`] → 0 | agent | tc |
//! | `ADDRESSES` | [`Addr`] → [`Address`] | agent | tc, socket |
//! | `ROUTES` | [`LpmKey`] → [`Route`] | agent | tc |
//! | `LOCAL_CLIENTS` | [`LpmKey`] → 0 | agent | tc |
//! | `FLOWS` | [`Tuple`] → [`Flow`] | tc | tc, sweep, tools |
//! | `FRAGMENTS` | [`Fragment`] → [`Ports`] | tc | tc |
//! | `AFFINITY` | [`AffinityKey`] → [`Affinity`] | tc | tc |
//! | `SOCKETS` | [`SocketKey`] → [`SocketPeer`] | socket | socket |
//! | `SERVICE_STATS` | id → [`ServiceStats`], per CPU | agent creates, tc and socket count | tools |
//! | `COUNTERS` | [`Outcome`] → packets, per CPU | all programs | tools |

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap},
    macros::btf_map,
};
use datapath_common::{
    Addr, Address, Affinity, AffinityKey, Backend, Config, Flow, Fragment, Frontend, FrontendKey,
    MemberKey, Outcome, Ports, Route, Service, ServiceStats, SlotKey, SocketKey, SocketPeer, Tuple,
};

/// Tables that the agent fills grow with the cluster: they take memory as they fill.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[used]
#[btf_map]
pub(crate) static CONFIG: Array<Config, 1> = Array::new();
#[used]
#[btf_map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend, 262_144, SPARSE> = HashMap::new();
#[used]
#[btf_map]
pub(crate) static SLOTS: HashMap<SlotKey, u32, 2_097_152, SPARSE> = HashMap::new();
#[used]
#[btf_map]
pub(crate) static MEMBERS: HashMap<MemberKey, u8, 1_048_576, SPARSE> = HashMap::new();
#[used]
#[btf_map]
pub(crate) static BACKENDS: HashMap<u32, Backend, 1_048_576, SPARSE> = HashMap::new();
#[used]
#[btf_map]
pub(crate) static SERVICES: HashMap<u32, Service, 131_072, SPARSE> = HashMap::new();
#[used]
#[btf_map]
pub(crate) static SOURCE_RANGES: LpmTrie<[u32; 5], u8, 131_072> = LpmTrie::new();
#[used]
#[btf_map]
pub(crate) static ADDRESSES: HashMap<Addr, Address, 16_384, SPARSE> = HashMap::new();
#[used]
#[btf_map]
pub(crate) static ROUTES: LpmTrie<Addr, Route, 65_536> = LpmTrie::new();
#[used]
#[btf_map]
pub(crate) static LOCAL_CLIENTS: LpmTrie<Addr, u8, 65_536> = LpmTrie::new();
#[used]
#[btf_map]
pub(crate) static FLOWS: LruHashMap<Tuple, Flow, 262_144> = LruHashMap::new();
#[used]
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<Fragment, Ports, 8_192> = LruHashMap::new();
#[used]
#[btf_map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, 65_536> = LruHashMap::new();
#[used]
#[btf_map]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketPeer, 65_536> = LruHashMap::new();
#[used]
#[btf_map]
pub(crate) static SERVICE_STATS: PerCpuHashMap<u32, ServiceStats, 131_072, SPARSE> =
    PerCpuHashMap::new();
#[used]
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Outcome::COUNT }> = PerCpuArray::new();

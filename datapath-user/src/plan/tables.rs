//! The contents of the maps that the agent fills, as plain values.

use datapath_common::{
    Addr, Address, Backend, Frontend, FrontendKey, LpmKey, MemberKey, Route, Service, SlotKey,
    SourceRangeKey,
};
use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

/// One value per map: what should be there, or what is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// `SERVICES` (and the keys of `SERVICE_STATS`).
    pub services: HashMap<u32, Service>,
    /// `BACKENDS`.
    pub backends: HashMap<u32, Backend>,
    /// `SLOTS`.
    pub slots: HashMap<SlotKey, u32>,
    /// `MEMBERS`.
    pub members: HashSet<MemberKey>,
    /// `MAGLEV`: tables of [`datapath_common::MAGLEV_SIZE`] entries.
    pub maglev: HashMap<u32, Arc<[u16]>>,
    /// `SOURCE_RANGES`.
    pub source_ranges: HashSet<SourceRangeKey>,
    /// `FRONTENDS`.
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// `ADDRESSES`.
    pub addresses: HashMap<Addr, Address>,
    /// `ROUTES`.
    pub routes: HashMap<LpmKey, Route>,
    /// `LOCAL_CLIENTS`.
    pub local_clients: HashSet<LpmKey>,
    /// `LOCAL_DEVICES`.
    pub local_devices: HashSet<u32>,
    /// `NON_MASQUERADE`.
    pub non_masquerade: HashSet<LpmKey>,
}

/// The keys of entries that must go, map by map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys {
    /// `SERVICES` (and `SERVICE_STATS`).
    pub services: Vec<u32>,
    /// `BACKENDS`.
    pub backends: Vec<u32>,
    /// `SLOTS`.
    pub slots: Vec<SlotKey>,
    /// `MEMBERS`.
    pub members: Vec<MemberKey>,
    /// `MAGLEV`.
    pub maglev: Vec<u32>,
    /// `SOURCE_RANGES`.
    pub source_ranges: Vec<SourceRangeKey>,
    /// `FRONTENDS`.
    pub frontends: Vec<FrontendKey>,
    /// `ADDRESSES`.
    pub addresses: Vec<Addr>,
    /// `ROUTES`.
    pub routes: Vec<LpmKey>,
    /// `LOCAL_CLIENTS`.
    pub local_clients: Vec<LpmKey>,
    /// `LOCAL_DEVICES`.
    pub local_devices: Vec<u32>,
    /// `NON_MASQUERADE`.
    pub non_masquerade: Vec<LpmKey>,
}

impl Tables {
    /// How many entries there are in all.
    pub fn len(&self) -> usize {
        let Self {
            services,
            backends,
            slots,
            members,
            maglev,
            source_ranges,
            frontends,
            addresses,
            routes,
            local_clients,
            local_devices,
            non_masquerade,
        } = self;
        let lists = slots.len() + members.len() + maglev.len();
        let of_services = services.len() + backends.len() + lists;
        let clients = local_clients.len() + local_devices.len();
        let of_node = addresses.len() + routes.len() + clients + non_masquerade.len();
        of_services + source_ranges.len() + frontends.len() + of_node
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Keys {
    /// How many keys there are in all.
    pub fn len(&self) -> usize {
        let Self {
            services,
            backends,
            slots,
            members,
            maglev,
            source_ranges,
            frontends,
            addresses,
            routes,
            local_clients,
            local_devices,
            non_masquerade,
        } = self;
        let lists = slots.len() + members.len() + maglev.len();
        let of_services = services.len() + backends.len() + lists;
        let clients = local_clients.len() + local_devices.len();
        let of_node = addresses.len() + routes.len() + clients + non_masquerade.len();
        of_services + source_ranges.len() + frontends.len() + of_node
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is something that a program finds by way of a frontend.
    pub fn has_what_frontends_lead_to(&self) -> bool {
        let Self { backends, slots, members, .. } = self;
        !(backends.is_empty() && slots.is_empty() && members.is_empty())
    }
}

/// What must be written and what must be removed.
///
/// It is applied in the order that never sends a packet to nothing: everything in `put` but the
/// frontends, then the frontends, then the removal of frontends, then, when no program looks at an old
/// frontend any more, all other removals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Entries to write.
    pub put: Tables,
    /// Entries to remove.
    pub remove: Keys,
}

impl Change {
    /// The change that turns `actual` into `desired`.
    pub fn between(actual: &Tables, desired: &Tables) -> Self {
        let Tables {
            services,
            backends,
            slots,
            members,
            maglev,
            source_ranges,
            frontends,
            addresses,
            routes,
            local_clients,
            local_devices,
            non_masquerade,
        } = desired;
        Self {
            put: Tables {
                services: missing(&actual.services, services),
                backends: missing(&actual.backends, backends),
                slots: missing(&actual.slots, slots),
                members: members.difference(&actual.members).copied().collect(),
                maglev: missing(&actual.maglev, maglev),
                source_ranges: source_ranges.difference(&actual.source_ranges).copied().collect(),
                frontends: missing(&actual.frontends, frontends),
                addresses: missing(&actual.addresses, addresses),
                routes: missing(&actual.routes, routes),
                local_clients: local_clients.difference(&actual.local_clients).copied().collect(),
                local_devices: local_devices.difference(&actual.local_devices).copied().collect(),
                non_masquerade: non_masquerade
                    .difference(&actual.non_masquerade)
                    .copied()
                    .collect(),
            },
            remove: Keys {
                services: stale(&actual.services, services),
                backends: stale(&actual.backends, backends),
                slots: stale(&actual.slots, slots),
                members: actual.members.difference(members).copied().collect(),
                maglev: stale(&actual.maglev, maglev),
                source_ranges: actual.source_ranges.difference(source_ranges).copied().collect(),
                frontends: stale(&actual.frontends, frontends),
                addresses: stale(&actual.addresses, addresses),
                routes: stale(&actual.routes, routes),
                local_clients: actual.local_clients.difference(local_clients).copied().collect(),
                local_devices: actual.local_devices.difference(local_devices).copied().collect(),
                non_masquerade: actual.non_masquerade.difference(non_masquerade).copied().collect(),
            },
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}

/// Entries of `desired` that `actual` lacks or holds with another value.
fn missing<K: Copy + Eq + Hash, V: Clone + PartialEq>(
    actual: &HashMap<K, V>,
    desired: &HashMap<K, V>,
) -> HashMap<K, V> {
    desired
        .iter()
        .filter(|(key, value)| actual.get(key) != Some(value))
        .map(|(key, value)| (*key, value.clone()))
        .collect()
}

/// Keys of `actual` that `desired` lacks.
fn stale<K: Copy + Eq + Hash, V>(actual: &HashMap<K, V>, desired: &HashMap<K, V>) -> Vec<K> {
    actual.keys().filter(|key| !desired.contains_key(key)).copied().collect()
}

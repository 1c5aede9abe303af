//! The pinned maps, typed.

use super::{Error, MapFill, pin::Layout, raw_map::RawMap, sys};
use crate::plan::{Change, Keys, Tables};
use bytemuck::Pod;
use datapath_common::{
    Addr, Address, Affinity, AffinityKey, Backend, Config, Flow, Fragment, Frontend, FrontendKey,
    LpmKey, MAGLEV_SIZE, MaglevTable, MemberKey, Outcome, Ports, Route, Service, ServiceStats,
    SlotKey, SocketKey, SocketPeer, SourceRangeKey, TunnelStats, Tuple,
};
use std::{
    collections::{HashMap, HashSet},
    fs,
    hash::Hash,
    io,
    marker::PhantomData,
    sync::Arc,
    thread,
    time::Duration,
};

/// How long a program may still look at what it found by a frontend that leads elsewhere by now. Programs
/// of packets are done within microseconds; those of sockets may be interrupted, and who is so for longer
/// than this refuses its client's one attempt. To wait for all of them for sure takes the kernel some tens
/// of milliseconds (`synchronize_rcu`), and with each change.
const READERS: Duration = Duration::from_millis(1);

/// A pinned map with keys `K` and values `V`.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    name: &'static str,
    map: RawMap,
    types: PhantomData<(K, V)>,
}

impl<K: Pod + Eq + Hash, V: Pod> Table<K, V> {
    fn open(layout: &Layout, name: &'static str) -> Result<Self, Error> {
        let map = open(layout, name)?;
        let sizes = (map.info().key_size as usize, map.info().value_size as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(Error::IncompatibleMap {
                name: name.to_owned(),
                path: layout.map(name),
                found: format!("keys of {} and values of {} bytes", sizes.0, sizes.1),
                needed: format!("{} and {} bytes", size_of::<K>(), size_of::<V>()),
            });
        }
        Ok(Self { name, map, types: PhantomData })
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let value = self.map.lookup(bytemuck::bytes_of(key)).map_err(self.failed("reading"))?;
        Ok(value.map(|bytes| bytemuck::pod_read_unaligned(&bytes)))
    }

    /// All entries.
    pub(super) fn entries(&self) -> Result<HashMap<K, V>, Error> {
        let mut entries = HashMap::new();
        let visit = |key: &[u8], value: &[u8]| {
            entries.insert(bytemuck::pod_read_unaligned(key), bytemuck::pod_read_unaligned(value));
        };
        self.map.for_each(visit).map_err(self.failed("reading"))?;
        Ok(entries)
    }

    /// All keys.
    fn keys(&self) -> Result<HashSet<K>, Error> {
        Ok(self.entries()?.into_keys().collect())
    }

    /// Writes one entry.
    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), Error> {
        self.map
            .update(bytemuck::bytes_of(key), bytemuck::bytes_of(value))
            .map_err(self.failed("writing"))
    }

    /// Writes entries.
    fn put_all(&self, entries: impl Iterator<Item = (K, V)>) -> Result<(), Error> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
        self.map
            .update_many(bytemuck::cast_slice(&keys), bytemuck::cast_slice(&values))
            .map_err(self.failed("writing"))
    }

    /// Removes entries; those that are not there are passed over.
    fn remove_all(&self, keys: &[K]) -> Result<(), Error> {
        self.map
            .remove_many(bytemuck::cast_slice(keys))
            .map(drop)
            .map_err(self.failed("removing from"))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        failed(self.name, self.map.info().max_entries, what)
    }
}

/// Values that are too large to be moved about.
impl Table<u32, MaglevTable> {
    fn tables(&self) -> Result<HashMap<u32, Arc<[u16]>>, Error> {
        let mut tables = HashMap::new();
        let visit = |key: &[u8], value: &[u8]| {
            let entries = value.chunks_exact(2).take(MAGLEV_SIZE);
            let table = entries.map(bytemuck::pod_read_unaligned).collect();
            tables.insert(bytemuck::pod_read_unaligned(key), table);
        };
        self.map.for_each(visit).map_err(self.failed("reading"))?;
        Ok(tables)
    }

    fn put_tables(&self, tables: &HashMap<u32, Arc<[u16]>>) -> Result<(), Error> {
        tables.iter().try_for_each(|(list, table)| {
            let mut value = bytemuck::cast_slice(table).to_vec();
            value.resize(size_of::<MaglevTable>(), 0);
            self.map.update(bytemuck::bytes_of(list), &value).map_err(self.failed("writing"))
        })
    }
}

/// A pinned per-CPU map.
#[derive(Debug)]
pub(super) struct PerCpu<K, V> {
    name: &'static str,
    map: RawMap,
    types: PhantomData<(K, V)>,
}

impl<K: Pod + Eq + Hash, V: Pod> PerCpu<K, V> {
    fn open(layout: &Layout, name: &'static str) -> Result<Self, Error> {
        let Table { name, map, types } = Table::open(layout, name)?;
        Ok(Self { name, map, types })
    }

    /// All entries, with the values of all CPUs.
    pub(super) fn entries(&self) -> Result<HashMap<K, Vec<V>>, Error> {
        let mut entries = HashMap::new();
        let visit = |key: &[u8], value: &[u8]| {
            let values = value
                .chunks_exact(sys::per_cpu_stride(size_of::<V>()))
                .map(|bytes| bytemuck::pod_read_unaligned(&bytes[..size_of::<V>()]))
                .collect();
            entries.insert(bytemuck::pod_read_unaligned(key), values);
        };
        self.map.for_each(visit).map_err(self.failed("reading"))?;
        Ok(entries)
    }

    /// Creates entries of zeros; those that exist are left alone. Returns how many were created.
    fn create(&self, keys: impl Iterator<Item = K>) -> Result<u32, Error> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| self.failed("sizing")(error))?;
        let zeros = vec![0; sys::per_cpu_stride(size_of::<V>()) * cpus];
        let mut created = 0;
        for key in keys {
            let new = self.map.insert(bytemuck::bytes_of(&key), &zeros);
            created += u32::from(new.map_err(self.failed("writing"))?);
        }
        Ok(created)
    }

    fn remove_all(&self, keys: &[K]) -> Result<(), Error> {
        self.map
            .remove_many(bytemuck::cast_slice(keys))
            .map(drop)
            .map_err(self.failed("removing from"))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        failed(self.name, self.map.info().max_entries, what)
    }
}

fn open(layout: &Layout, name: &'static str) -> Result<RawMap, Error> {
    let path = layout.map(name);
    RawMap::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoMap { name, path },
        _ => Error::system(format!("opening the map {name}"))(error),
    })
}

fn failed(name: &'static str, max: u32, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => Error::Full { name, max },
        _ => Error::system(format!("{what} the map {name}"))(error),
    }
}

macro_rules! maps {
    ($($field:ident: $table:ident<$key:ty, $value:ty> = $name:literal,)*) => {
        /// Every map, open.
        #[derive(Debug)]
        pub(super) struct Maps {
            $(pub(super) $field: $table<$key, $value>,)*
        }

        impl Maps {
            /// The names of all maps.
            pub(super) const NAMES: [&'static str; [$($name),*].len()] = [$($name),*];

            /// Opens all maps by their pins.
            pub(super) fn open(layout: &Layout) -> Result<Self, Error> {
                Ok(Self { $($field: $table::open(layout, $name)?,)* })
            }

            /// Name and map of each.
            pub(super) fn raw(&self) -> [(&'static str, &RawMap); Self::NAMES.len()] {
                [$((self.$field.name, &self.$field.map)),*]
            }
        }
    };
}

maps! {
    config: Table<u32, Config> = "CONFIG",
    frontends: Table<FrontendKey, Frontend> = "FRONTENDS",
    slots: Table<SlotKey, u32> = "SLOTS",
    members: Table<MemberKey, u8> = "MEMBERS",
    maglev: Table<u32, MaglevTable> = "MAGLEV",
    backends: Table<u32, Backend> = "BACKENDS",
    services: Table<u32, Service> = "SERVICES",
    source_ranges: Table<SourceRangeKey, u8> = "SOURCE_RANGES",
    addresses: Table<Addr, Address> = "ADDRESSES",
    routes: Table<LpmKey, Route> = "ROUTES",
    local_clients: Table<LpmKey, u8> = "LOCAL_CLIENTS",
    local_devices: Table<u32, u8> = "LOCAL_DEVICES",
    non_masquerade: Table<LpmKey, u8> = "NON_MASQUERADE",
    flows: Table<Tuple, Flow> = "FLOWS",
    fragments: Table<Fragment, Ports> = "FRAGMENTS",
    affinity: Table<AffinityKey, Affinity> = "AFFINITY",
    sockets: Table<SocketKey, SocketPeer> = "SOCKETS",
    service_stats: PerCpu<u32, ServiceStats> = "SERVICE_STATS",
    tunnels: PerCpu<Addr, TunnelStats> = "TUNNELS",
    counters: PerCpu<u32, u64> = "COUNTERS",
}

impl Maps {
    /// What the maps that the agent fills hold now.
    pub(super) fn dump(&self) -> Result<Tables, Error> {
        Ok(Tables {
            services: self.services.entries()?,
            backends: self.backends.entries()?,
            slots: self.slots.entries()?,
            members: self.members.keys()?,
            maglev: self.maglev.tables()?,
            source_ranges: self.source_ranges.keys()?,
            frontends: self.frontends.entries()?,
            addresses: self.addresses.entries()?,
            routes: self.routes.entries()?,
            local_clients: self.local_clients.keys()?,
            local_devices: self.local_devices.keys()?,
            non_masquerade: self.non_masquerade.keys()?,
        })
    }

    /// Writes and removes, in the order documented on [`Change`].
    pub(super) fn apply(&self, change: &Change) -> Result<(), Error> {
        self.put(&change.put)?;
        // Nobody dials these any more.
        self.frontends.remove_all(&change.remove.frontends)?;
        if change.remove.has_what_frontends_lead_to() {
            thread::sleep(READERS);
        }
        self.remove(&change.remove)
    }

    fn put(&self, tables: &Tables) -> Result<(), Error> {
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
        } = tables;
        self.services.put_all(copied(services))?;
        self.service_stats.create(services.keys().copied())?;
        self.backends.put_all(copied(backends))?;
        self.slots.put_all(copied(slots))?;
        self.members.put_all(members.iter().map(|key| (*key, 0)))?;
        self.maglev.put_tables(maglev)?;
        self.source_ranges.put_all(source_ranges.iter().map(|key| (*key, 0)))?;
        self.addresses.put_all(copied(addresses))?;
        self.routes.put_all(copied(routes))?;
        self.local_clients.put_all(local_clients.iter().map(|key| (*key, 0)))?;
        self.local_devices.put_all(local_devices.iter().map(|key| (*key, 0)))?;
        self.non_masquerade.put_all(non_masquerade.iter().map(|key| (*key, 0)))?;
        self.frontends.put_all(copied(frontends))
    }

    /// Removes everything but frontends.
    fn remove(&self, keys: &Keys) -> Result<(), Error> {
        let Keys {
            services,
            backends,
            slots,
            members,
            maglev,
            source_ranges,
            frontends: _,
            addresses,
            routes,
            local_clients,
            local_devices,
            non_masquerade,
        } = keys;
        self.slots.remove_all(slots)?;
        self.members.remove_all(members)?;
        self.maglev.remove_all(maglev)?;
        self.backends.remove_all(backends)?;
        self.source_ranges.remove_all(source_ranges)?;
        self.addresses.remove_all(addresses)?;
        self.routes.remove_all(routes)?;
        self.local_clients.remove_all(local_clients)?;
        self.local_devices.remove_all(local_devices)?;
        self.non_masquerade.remove_all(non_masquerade)?;
        self.services.remove_all(services)?;
        self.service_stats.remove_all(services)
    }

    /// Makes the keys of `SERVICE_STATS` those of `SERVICES`; returns how many were wrong.
    pub(super) fn repair_stats(&self) -> Result<u32, Error> {
        let services = self.services.keys()?;
        let stats: HashSet<u32> = self.service_stats.entries()?.into_keys().collect();
        let stale: Vec<u32> = stats.difference(&services).copied().collect();
        self.service_stats.remove_all(&stale)?;
        let created = self.service_stats.create(services.difference(&stats).copied())?;
        Ok(created + stale.len() as u32)
    }

    /// Pins maps again whose pins are gone or are of another map; returns how many were.
    pub(super) fn repair_pins(&self, layout: &Layout) -> Result<u32, Error> {
        let mut repaired = 0;
        for (name, map) in self.raw() {
            let path = layout.map(name);
            let what = || Error::system(format!("pinning the map {name}"));
            match RawMap::open(&path) {
                Ok(found) if found.info().id == map.info().id => continue,
                Ok(_) => fs::remove_file(&path).map_err(what())?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(what()(error)),
            }
            sys::pin(map.fd(), &path).map_err(what())?;
            repaired += 1;
        }
        Ok(repaired)
    }

    /// Packets and calls by outcome, over all CPUs.
    pub(super) fn counters(&self) -> Result<Vec<(Outcome, u64)>, Error> {
        let entries = self.counters.entries()?;
        let sum = |index| entries.get(&index).map_or(0, |values| values.iter().sum());
        Ok(Outcome::ALL.into_iter().map(|outcome| (outcome, sum(outcome as u32))).collect())
    }

    /// Statistics by service id, over all CPUs.
    pub(super) fn stats(&self) -> Result<HashMap<u32, ServiceStats>, Error> {
        let add = |sum: ServiceStats, one: &ServiceStats| ServiceStats {
            flows: sum.flows + one.flows,
            sockets: sum.sockets + one.sockets,
            refused: sum.refused + one.refused,
        };
        let entries = self.service_stats.entries()?.into_iter();
        Ok(entries.map(|(id, all)| (id, all.iter().fold(ServiceStats::default(), add))).collect())
    }

    /// What went through the tunnels, by the other node's address, over all CPUs.
    pub(super) fn tunnels(&self) -> Result<HashMap<Addr, TunnelStats>, Error> {
        let add = |sum: TunnelStats, one: &TunnelStats| TunnelStats {
            sent_packets: sum.sent_packets + one.sent_packets,
            sent_bytes: sum.sent_bytes + one.sent_bytes,
            received_packets: sum.received_packets + one.received_packets,
            received_bytes: sum.received_bytes + one.received_bytes,
        };
        let entries = self.tunnels.entries()?.into_iter();
        Ok(entries
            .map(|(node, all)| (node, all.iter().fold(TunnelStats::default(), add)))
            .collect())
    }

    /// How full each map is.
    pub(super) fn fill(&self) -> Result<Vec<MapFill>, Error> {
        self.raw().into_iter().map(|(name, map)| fill(name, map)).collect()
    }
}

fn fill(name: &'static str, map: &RawMap) -> Result<MapFill, Error> {
    let info = map.info();
    let mut entries = 0;
    if map.is_array() {
        entries = u64::from(info.max_entries);
    } else {
        map.for_each(|_, _| entries += 1)
            .map_err(Error::system(format!("counting the map {name}")))?;
    }
    Ok(MapFill {
        name,
        kind: map.kind(),
        entries,
        max_entries: info.max_entries,
        entry_size: info.key_size + info.value_size,
        memory: map.memory(),
    })
}

fn copied<K: Copy, V: Copy>(entries: &HashMap<K, V>) -> impl Iterator<Item = (K, V)> {
    entries.iter().map(|(key, value)| (*key, *value))
}

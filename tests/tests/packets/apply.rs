//! Tables of the planner in the maps of a [`Node`].

use crate::node::{Abi, Node};
use aya::maps::lpm_trie::Key;
use bytemuck::Pod;
use datapath_common::{Address, Backend, Frontend, LpmKey, MaglevTable, Route, SourceRangeKey};
use datapath_user::plan::{Change, Keys, Tables};
use std::collections::HashMap;

impl Node {
    /// Writes and removes what a planner says.
    pub(crate) fn apply(&mut self, change: &Change) {
        let Change { put, remove } = change;
        self.put_all(put);
        self.remove_all(remove);
    }

    fn put_all(&mut self, tables: &Tables) {
        let Tables {
            services: _,
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
        self.put_hash("BACKENDS", backends);
        self.put_hash("SLOTS", slots);
        self.put_hash("MEMBERS", &members.iter().map(|key| (*key, 0_u8)).collect());
        self.put_hash(
            "MAGLEV",
            &maglev.iter().map(|(list, table)| (*list, maglev_table(table))).collect(),
        );
        self.put_hash("ADDRESSES", addresses);
        self.put_trie("SOURCE_RANGES", source_ranges.iter().map(|key| (source_range(key), 0_u8)));
        self.put_trie("ROUTES", routes.iter().map(|(key, route)| (range(key), *route)));
        self.put_trie("LOCAL_CLIENTS", local_clients.iter().map(|key| (range(key), 0_u8)));
        self.put_hash("LOCAL_DEVICES", &local_devices.iter().map(|key| (*key, 0_u8)).collect());
        self.put_trie("NON_MASQUERADE", non_masquerade.iter().map(|key| (range(key), 0_u8)));
        self.put_hash("FRONTENDS", frontends);
    }

    fn remove_all(&mut self, keys: &Keys) {
        let Keys {
            services: _,
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
        } = keys;
        self.remove_hash::<_, Frontend>("FRONTENDS", frontends);
        self.remove_hash::<_, u32>("SLOTS", slots);
        self.remove_hash::<_, u8>("MEMBERS", members);
        self.remove_hash::<_, MaglevTable>("MAGLEV", maglev);
        self.remove_hash::<_, Backend>("BACKENDS", backends);
        self.remove_hash::<_, Address>("ADDRESSES", addresses);
        self.remove_trie::<_, u8>("SOURCE_RANGES", source_ranges.iter().map(source_range));
        self.remove_trie::<_, Route>("ROUTES", routes.iter().map(range));
        self.remove_trie::<_, u8>("LOCAL_CLIENTS", local_clients.iter().map(range));
        self.remove_hash::<_, u8>("LOCAL_DEVICES", local_devices);
        self.remove_trie::<_, u8>("NON_MASQUERADE", non_masquerade.iter().map(range));
    }

    fn put_hash<K: Pod, V: Pod>(&mut self, name: &str, entries: &HashMap<K, V>) {
        let mut map = self.hash(name);
        for (key, value) in entries {
            map.insert(Abi(*key), Abi(*value), 0).expect("an entry is written");
        }
    }

    fn remove_hash<K: Pod, V: Pod>(&mut self, name: &str, keys: &[K]) {
        let mut map = self.hash::<K, V>(name);
        for key in keys {
            map.remove(&Abi(*key)).expect("an entry is removed");
        }
    }

    fn put_trie<K: Pod, V: Pod>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (Key<Abi<K>>, V)>,
    ) {
        let mut map = self.trie(name);
        for (key, value) in entries {
            map.insert(&key, Abi(value), 0).expect("an entry is written");
        }
    }

    fn remove_trie<K: Pod, V: Pod>(&mut self, name: &str, keys: impl Iterator<Item = Key<Abi<K>>>) {
        let mut map = self.trie::<K, V>(name);
        for key in keys {
            map.remove(&key).expect("an entry is removed");
        }
    }
}

fn maglev_table(table: &[u16]) -> MaglevTable {
    MaglevTable { entries: table.try_into().expect("a whole table"), pad: 0 }
}

fn range(key: &LpmKey) -> Key<Abi<[u32; 4]>> {
    Key::new(key.prefix_len, Abi(key.addr.0))
}

/// All that follows the prefix length, in words.
fn source_range(key: &SourceRangeKey) -> Key<Abi<[u32; 5]>> {
    let [_, words @ ..]: [u32; 6] = bytemuck::cast(*key);
    Key::new(key.prefix_len, Abi(words))
}

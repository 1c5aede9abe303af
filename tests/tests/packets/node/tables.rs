//! What the maps of a [`Node`] hold: written a line at a time, and read back.

use super::{Abi, DEVICE, GATEWAY, GATEWAY6, NODE, NODE6, Node, addr};
use aya::maps::{
    Array, HashMap, MapData, PerCpuArray, PerCpuHashMap,
    lpm_trie::{Key, LpmTrie},
};
use datapath_common::{
    Addr, Address, AddressKind, Backend, BackendList, Be16, Config, ConfigFlags, Flow, Frontend,
    FrontendFlags, FrontendKey, FrontendKind, LpmKey, MemberKey, Outcome, Protocol, Route,
    RouteKind, SlotKey, Timeouts, TunnelStats, Tuple, tunnel_overhead,
};

impl Node {
    pub(crate) fn configure(&mut self, flags: ConfigFlags) {
        let config = Config {
            host_netns: 0,
            node_v4: addr(NODE),
            node_v6: addr(NODE6),
            uplink: DEVICE,
            flags,
            port_min: 61_000,
            port_max: 65_535,
            uplink_mac: [2, 0, 0, 0, 0, 3],
            pad: [0; 2],
            timeouts: Timeouts::DEFAULT,
        };
        let map = self.ebpf.map_mut("CONFIG").expect("CONFIG");
        Array::<_, Abi<Config>>::try_from(map)
            .expect("an array")
            .set(0, Abi(config), 0)
            .expect("set");
    }

    /// Changes the configuration in place.
    pub(crate) fn change_config(&mut self, change: impl FnOnce(&mut Config)) {
        let map = self.ebpf.map_mut("CONFIG").expect("CONFIG");
        let mut map = Array::<_, Abi<Config>>::try_from(map).expect("an array");
        let mut config = map.get(&0, 0).expect("the configuration").0;
        change(&mut config);
        map.set(0, Abi(config), 0).expect("set");
    }

    pub(crate) fn hash<K: bytemuck::Pod, V: bytemuck::Pod>(
        &mut self,
        name: &str,
    ) -> HashMap<&mut MapData, Abi<K>, Abi<V>> {
        HashMap::try_from(self.ebpf.map_mut(name).expect("a map of this name")).expect("a hash map")
    }

    fn put<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, name: &str, key: K, value: V) {
        self.hash(name).insert(Abi(key), Abi(value), 0).expect("an entry is written");
    }

    /// A pod of this node.
    pub(crate) fn pod(&mut self, pod: &str) {
        let v4 = addr(pod).is_v4();
        let gateway = addr(if v4 { GATEWAY } else { GATEWAY6 });
        let value =
            Address { gateway, device: DEVICE, mac: [0; 6], kind: AddressKind::POD, flags: 0 };
        self.put("ADDRESSES", addr(pod), value);
    }

    /// A pod of this node whose gateway has no address of its own, as Calico connects pods.
    pub(crate) fn pod_without_gateway(&mut self, pod: &str) {
        self.pod(pod);
        let mut map = self.hash::<Addr, Address>("ADDRESSES");
        let mut value = map.get(&Abi(addr(pod)), 0).expect("the pod").0;
        value.gateway = addr(pod).wildcard();
        map.insert(Abi(addr(pod)), Abi(value), 0).expect("an entry is written");
    }

    /// An address of the node itself.
    pub(crate) fn host(&mut self, host: &str) {
        let value = Address {
            gateway: Addr::UNSPECIFIED_V6,
            device: 0,
            mac: [0; 6],
            kind: AddressKind::HOST,
            flags: Address::NODE_PORT,
        };
        self.put("ADDRESSES", addr(host), value);
    }

    /// An address that this node has no more.
    pub(crate) fn remove_address(&mut self, address: &str) {
        self.hash::<Addr, Address>("ADDRESSES").remove(&Abi(addr(address))).expect("the address");
    }

    /// Pods of another node, straight; or another range.
    pub(crate) fn route(&mut self, range: &str, prefix: u8, kind: RouteKind, next_hop: &str) {
        let value = Route { next_hop: addr(next_hop), device: DEVICE, mtu: 1500, kind, pad: 0 };
        self.prefix("ROUTES", LpmKey::new(addr(range), prefix), value);
    }

    /// Another node and its pods, behind a tunnel.
    pub(crate) fn tunnel(&mut self, node: &str, ranges: &[(&str, u8)]) {
        let mtu = 1500 - tunnel_overhead(addr(node));
        let kind = RouteKind::PEER;
        let peer = Route { next_hop: addr(node), device: 0, mtu: 0, kind, pad: 0 };
        let length = if addr(node).is_v4() { 32 } else { 128 };
        self.prefix("ROUTES", LpmKey::new(addr(node), length), peer);
        for (range, prefix) in ranges {
            let kind = RouteKind::TUNNEL;
            let value = Route { device: DEVICE, mtu, kind, ..peer };
            self.prefix("ROUTES", LpmKey::new(addr(range), *prefix), value);
        }
    }

    /// What went through the tunnels of a node.
    pub(crate) fn tunnel_stats(&self, node: &str) -> TunnelStats {
        let map = self.ebpf.map("TUNNELS").expect("TUNNELS");
        let map = PerCpuHashMap::<_, Abi<Addr>, Abi<TunnelStats>>::try_from(map).expect("a map");
        let Ok(values) = map.get(&Abi(addr(node)), 0) else { return TunnelStats::default() };
        values.iter().fold(TunnelStats::default(), |sum, Abi(one)| TunnelStats {
            sent_packets: sum.sent_packets + one.sent_packets,
            sent_bytes: sum.sent_bytes + one.sent_bytes,
            received_packets: sum.received_packets + one.received_packets,
            received_bytes: sum.received_bytes + one.received_bytes,
        })
    }

    /// Sources that count as pods.
    pub(crate) fn local_clients(&mut self, range: &str, prefix: u8) {
        self.prefix("LOCAL_CLIENTS", LpmKey::new(addr(range), prefix), 0_u8);
    }

    /// A range outside of the cluster to which pods keep their own address.
    pub(crate) fn non_masquerade(&mut self, range: &str, prefix: u8) {
        self.prefix("NON_MASQUERADE", LpmKey::new(addr(range), prefix), 0_u8);
    }

    /// A device whose clients count as pods, where devices decide.
    pub(crate) fn local_device(&mut self, device: u32) {
        self.put("LOCAL_DEVICES", device, 0_u8);
    }

    fn prefix<V: bytemuck::Pod>(&mut self, name: &str, key: LpmKey, value: V) {
        let key = Key::new(key.prefix_len, Abi(key.addr.0));
        self.trie(name).insert(&key, Abi(value), 0).expect("an entry is written");
    }

    /// A service with one frontend and the given backends; ids and list follow `service`.
    pub(crate) fn service(
        &mut self,
        service: u32,
        frontend: (&str, u16, Protocol),
        backends: &[(&str, u16)],
    ) {
        let (vip, port, protocol) = frontend;
        let list = BackendList { id: service, count: backends.len() as u32 };
        for (index, (backend, backend_port)) in (0..).zip(backends) {
            let id = service * 100 + index;
            self.put_backend(id, backend, *backend_port, protocol, service);
            self.put("SLOTS", SlotKey { list: service, index }, id);
            self.put("MEMBERS", MemberKey { list: service, backend: id }, 0_u8);
        }
        let key = FrontendKey::new(addr(vip), Be16::new(port), protocol);
        let value = Frontend {
            service,
            inside: list,
            outside: list,
            affinity: 0,
            flags: FrontendFlags::MASQUERADE_OUTSIDE,
            kind: FrontendKind::CLUSTER_IP,
            pad: 0,
        };
        self.put("FRONTENDS", key, value);
        self.put(
            "FRONTENDS",
            FrontendKey::any_port(addr(vip)),
            Frontend {
                service: 0,
                inside: BackendList::default(),
                outside: BackendList::default(),
                ..value
            },
        );
    }

    pub(crate) fn trie<K: bytemuck::Pod, V: bytemuck::Pod>(
        &mut self,
        name: &str,
    ) -> LpmTrie<&mut MapData, Abi<K>, Abi<V>> {
        LpmTrie::try_from(self.ebpf.map_mut(name).expect("a map of this name")).expect("a trie")
    }

    /// A port of the node that leads to a pod.
    pub(crate) fn host_port(
        &mut self,
        service: u32,
        frontend: (&str, u16, Protocol),
        pod: (&str, u16),
    ) {
        self.service(service, frontend, &[pod]);
        self.change_frontend(frontend, |frontend| {
            frontend.flags = FrontendFlags::default();
            frontend.kind = FrontendKind::HOST_PORT;
        });
        self.remove_any_port(frontend.0);
    }

    /// Takes the address of a frontend out of what is ours: ports that it does not serve are not
    /// rejected.
    pub(crate) fn remove_any_port(&mut self, vip: &str) {
        let key = FrontendKey::any_port(addr(vip));
        let mut map = self.hash::<FrontendKey, Frontend>("FRONTENDS");
        // Two services with one address share it.
        let _ = map.remove(&Abi(key));
    }

    /// A source that may use the frontends of a service with source ranges.
    pub(crate) fn source_range(&mut self, service: u32, range: &str, prefix: u8) {
        let LpmKey { prefix_len, addr } = LpmKey::new(addr(range), prefix);
        let [a, b, c, d] = addr.0;
        let key = Key::new(32 + prefix_len, Abi([service, a, b, c, d]));
        self.trie("SOURCE_RANGES").insert(&key, Abi(0_u8), 0).expect("an entry is written");
    }

    /// Removes a frontend.
    pub(crate) fn remove_frontend(&mut self, (vip, port, protocol): (&str, u16, Protocol)) {
        let key = FrontendKey::new(addr(vip), Be16::new(port), protocol);
        self.hash::<FrontendKey, Frontend>("FRONTENDS").remove(&Abi(key)).expect("the frontend");
    }

    /// Changes a frontend in place.
    pub(crate) fn change_frontend(
        &mut self,
        (vip, port, protocol): (&str, u16, Protocol),
        change: impl FnOnce(&mut Frontend),
    ) {
        let key = FrontendKey::new(addr(vip), Be16::new(port), protocol);
        let mut map = self.hash::<FrontendKey, Frontend>("FRONTENDS");
        let mut value = map.get(&Abi(key), 0).expect("the frontend").0;
        change(&mut value);
        map.insert(Abi(key), Abi(value), 0).expect("an entry is written");
    }

    pub(crate) fn put_backend(
        &mut self,
        id: u32,
        backend: &str,
        port: u16,
        protocol: Protocol,
        service: u32,
    ) {
        let value =
            Backend { addr: addr(backend), port: Be16::new(port), protocol, pad: 0, service };
        self.put("BACKENDS", id, value);
    }

    /// Empties `MEMBERS`: no remembered backend is in a list any more.
    pub(crate) fn clear_members(&mut self) {
        let mut map = self.hash::<MemberKey, u8>("MEMBERS");
        let keys: Vec<_> = map.keys().map(|key| key.expect("a key").0).collect();
        for key in keys {
            map.remove(&Abi(key)).expect("the entry");
        }
    }

    /// Removes a backend, as when its endpoint serves no more.
    pub(crate) fn remove_backend(&mut self, id: u32) {
        self.hash::<u32, Backend>("BACKENDS").remove(&Abi(id)).expect("the backend");
    }

    pub(crate) fn flows(&mut self) -> Vec<(Tuple, Flow)> {
        self.hash::<Tuple, Flow>("FLOWS")
            .iter()
            .map(|entry| entry.map(|(key, value)| (key.0, value.0)).expect("an entry"))
            .collect()
    }

    pub(crate) fn remove_flow(&mut self, tuple: &Tuple) {
        self.hash::<Tuple, Flow>("FLOWS").remove(&Abi(*tuple)).expect("the flow");
    }

    pub(crate) fn put_flow(&mut self, tuple: Tuple, flow: Flow) {
        self.put("FLOWS", tuple, flow);
    }

    /// Sum of the outcome's counter over all CPUs.
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        let map = self.ebpf.map("COUNTERS").expect("COUNTERS");
        let counters = PerCpuArray::<_, u64>::try_from(map).expect("a per-CPU array");
        counters.get(&(outcome as u32), 0).expect("a counter").iter().sum()
    }
}

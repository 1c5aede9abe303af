//! What a Service, or a pod with host ports, has in the maps, and how it becomes something else.

use super::{
    Change, Tables,
    compile::{FrontendPlan, ListKey, PortPlan, ServicePlan, Target, ip_protocol, order},
    ids::Ids,
    maglev,
    owner::Owner,
};
use crate::model::{Family, Protocol};
use datapath_common::{
    Addr, Backend, BackendList, Be16, Frontend, FrontendFlags, FrontendKey, FrontendKind, LpmKey,
    MemberKey, Service, SlotKey, SourceRangeKey,
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Numbers in use, and those that a run before this one gave to what is still there.
#[derive(Debug)]
pub(super) struct Numbers {
    services: Ids,
    backends: Ids,
    lists: Ids,
    old_services: HashMap<[u8; 192], u32>,
    old_backends: HashMap<(u32, Addr, Be16), u32>,
    /// By contents; with each, whether it has entries in `MEMBERS`.
    old_lists: HashMap<Vec<u32>, Vec<(u32, bool)>>,
}

impl Numbers {
    /// Continues where the maps' contents stand.
    pub(super) fn new(maps: &Tables) -> Self {
        let mut lists: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
        for (slot, backend) in &maps.slots {
            lists.entry(slot.list).or_default().push((slot.index, *backend));
        }
        let with_members: HashSet<u32> = maps.members.iter().map(|member| member.list).collect();
        let mut old_lists: HashMap<_, Vec<_>> = HashMap::new();
        let used = lists.keys().chain(&with_members).chain(maps.maglev.keys()).copied().collect();
        for (id, mut slots) in lists {
            slots.sort_unstable();
            let contents = slots.into_iter().map(|(_, backend)| backend).collect();
            old_lists.entry(contents).or_default().push((id, with_members.contains(&id)));
        }
        Self {
            services: Ids::new(maps.services.keys().copied().collect()),
            backends: Ids::new(maps.backends.keys().copied().collect()),
            lists: Ids::new(used),
            old_services: maps.services.iter().map(|(id, value)| (value.label, *id)).collect(),
            old_backends: maps
                .backends
                .iter()
                .map(|(id, backend)| ((backend.service, backend.addr, backend.port), *id))
                .collect(),
            old_lists,
        }
    }

    /// Forgets numbers of the run before that `services` do not use.
    pub(super) fn settle(&mut self, services: &[&ServiceState]) {
        self.old_services = HashMap::new();
        self.old_backends = HashMap::new();
        self.old_lists = HashMap::new();
        let ports = || services.iter().flat_map(|service| &service.ports);
        self.services.retain(ports().map(|port| port.id).collect());
        let backends = ports().flat_map(|port| &port.backends);
        self.backends.retain(backends.map(|(_, id)| *id).collect());
        self.lists.retain(ports().flat_map(|port| &port.lists).map(|list| list.id).collect());
    }

    fn service(&mut self, label: &Service) -> u32 {
        self.old_services.remove(&label.label).unwrap_or_else(|| self.services.take())
    }

    fn backend(&mut self, service: u32, (addr, port): Target) -> u32 {
        self.old_backends.remove(&(service, addr, port)).unwrap_or_else(|| self.backends.take())
    }

    fn list(&mut self, contents: &[u32], members: bool) -> u32 {
        let old = self.old_lists.get_mut(contents).and_then(|lists| {
            let index = lists.iter().position(|(_, with_members)| *with_members == members)?;
            Some(lists.swap_remove(index).0)
        });
        old.unwrap_or_else(|| self.lists.take())
    }
}

/// A list of backends.
#[derive(Debug)]
struct List {
    key: ListKey,
    id: u32,
    /// Whether it has entries in `MEMBERS`.
    members: bool,
    /// Its table in `MAGLEV`.
    maglev: Option<Arc<[u16]>>,
    backends: Vec<u32>,
}

/// A service port: one row of `SERVICES`.
#[derive(Debug)]
pub(super) struct PortState {
    id: u32,
    name: Box<str>,
    protocol: Protocol,
    /// In order of the targets.
    backends: Vec<(Target, u32)>,
    lists: Vec<List>,
    ranges: Vec<LpmKey>,
    no_local: Vec<(Family, &'static str)>,
}

/// A Service, or a pod with host ports.
#[derive(Debug, Default)]
pub(super) struct ServiceState {
    pub(super) created: i64,
    ports: Vec<PortState>,
    /// In order of the keys.
    pub(super) frontends: Vec<(FrontendKey, Frontend)>,
}

impl ServiceState {
    /// What `self` becomes by `plan`. What that changes, but for the frontends, is added to
    /// `change`.
    pub(super) fn become_planned(
        mut self,
        owner: &Owner,
        plan: ServicePlan,
        numbers: &mut Numbers,
        change: &mut Change,
    ) -> Self {
        let ServicePlan { created, cluster_ips, ports, health: _ } = plan;
        let mut next = Self { created, ..Self::default() };
        for plan in ports {
            let old = self
                .ports
                .iter()
                .position(|port| port.name == plan.name && port.protocol == plan.protocol)
                .map(|index| self.ports.swap_remove(index));
            let (port, frontends) = PortState::planned(old, owner, plan, numbers, change);
            next.frontends.extend(frontends);
            next.ports.push(port);
        }
        for port in self.ports {
            port.remove(numbers, change);
        }
        next.frontends.extend(cluster_ips.into_iter().map(any_port));
        next.frontends.sort_by_key(|(key, _)| key_order(*key));
        next.frontends.dedup_by_key(|(key, _)| *key);
        next
    }

    /// The frontend at `key`.
    pub(super) fn frontend(&self, key: FrontendKey) -> Option<Frontend> {
        let index =
            self.frontends.binary_search_by_key(&key_order(key), |(key, _)| key_order(*key));
        index.ok().map(|index| self.frontends[index].1)
    }

    /// Adds everything but the frontends to `tables`.
    pub(super) fn add_to(&self, owner: &Owner, tables: &mut Tables) {
        for port in &self.ports {
            let PortState { id, name, protocol, backends, lists, ranges, no_local: _ } = port;
            tables.services.insert(*id, owner.label(name, *protocol));
            for (target, backend) in backends {
                tables.backends.insert(*backend, backend_value(*target, *protocol, *id));
            }
            for list in lists {
                tables.slots.extend(list.slots());
                tables.members.extend(list.members());
                tables.maglev.extend(list.maglev());
            }
            tables.source_ranges.extend(ranges.iter().map(|range| range_key(*id, *range)));
        }
    }

    /// Policies Local that leave nothing to use here, each with its family.
    pub(super) fn no_local(&self) -> impl Iterator<Item = (Family, &'static str)> {
        self.ports.iter().flat_map(|port| &port.no_local).copied()
    }

    /// Ids of the service ports, each with its label.
    pub(super) fn labels(&self, owner: &Owner) -> impl Iterator<Item = (u32, String)> {
        self.ports.iter().map(move |port| (port.id, owner.label_text(&port.name, port.protocol)))
    }
}

impl PortState {
    fn planned(
        old: Option<Self>,
        owner: &Owner,
        plan: PortPlan,
        numbers: &mut Numbers,
        change: &mut Change,
    ) -> (Self, Vec<(FrontendKey, Frontend)>) {
        let PortPlan {
            name,
            protocol,
            affinity,
            maglev,
            backends,
            lists,
            ranges,
            frontends,
            no_local,
        } = plan;
        let old = old.unwrap_or_else(|| {
            let label = owner.label(&name, protocol);
            let id = numbers.service(&label);
            change.put.services.insert(id, label);
            Self {
                id,
                name,
                protocol,
                backends: Vec::new(),
                lists: Vec::new(),
                ranges: Vec::new(),
                no_local: Vec::new(),
            }
        });
        let id = old.id;
        let backends = old.next_backends(backends, numbers, change);
        let uses = Uses { members: affinity != 0, maglev };
        let lists = next_lists(old.lists, lists, &backends, uses, numbers, change);
        next_ranges(id, &old.ranges, &ranges, change);
        let frontends = frontends
            .into_iter()
            .map(|plan| (plan.key, frontend(id, affinity, maglev, &plan, &lists)))
            .collect();
        let next = Self { id, name: old.name, protocol, backends, lists, ranges, no_local };
        (next, frontends)
    }

    fn next_backends(
        &self,
        targets: Vec<Target>,
        numbers: &mut Numbers,
        change: &mut Change,
    ) -> Vec<(Target, u32)> {
        let mut next = Vec::with_capacity(targets.len());
        for target in targets {
            let id = find(&self.backends, target).unwrap_or_else(|| {
                let id = numbers.backend(self.id, target);
                change.put.backends.insert(id, backend_value(target, self.protocol, self.id));
                id
            });
            next.push((target, id));
        }
        for (target, id) in &self.backends {
            if find(&next, *target).is_none() {
                change.remove.backends.push(*id);
                numbers.backends.release(*id);
            }
        }
        next
    }

    fn remove(self, numbers: &mut Numbers, change: &mut Change) {
        let Self { id, name: _, protocol: _, backends, lists, ranges, no_local: _ } = self;
        for (_, backend) in backends {
            change.remove.backends.push(backend);
            numbers.backends.release(backend);
        }
        for list in lists {
            list.remove(numbers, change);
        }
        next_ranges(id, &ranges, &[], change);
        change.remove.services.push(id);
        numbers.services.release(id);
    }
}

impl List {
    fn slots(&self) -> impl Iterator<Item = (SlotKey, u32)> {
        let list = self.id;
        (0..).zip(&self.backends).map(move |(index, backend)| (SlotKey { list, index }, *backend))
    }

    fn members(&self) -> impl Iterator<Item = MemberKey> {
        let (list, members) = (self.id, self.members);
        self.backends
            .iter()
            .filter(move |_| members)
            .map(move |backend| MemberKey { list, backend: *backend })
    }

    fn maglev(&self) -> Option<(u32, Arc<[u16]>)> {
        Some((self.id, self.maglev.clone()?))
    }

    fn remove(self, numbers: &mut Numbers, change: &mut Change) {
        change.remove.slots.extend(self.slots().map(|(key, _)| key));
        change.remove.members.extend(self.members());
        change.remove.maglev.extend(self.maglev().map(|(id, _)| id));
        numbers.lists.release(self.id);
    }
}

/// What the lists of a service port must have besides their slots.
#[derive(Clone, Copy)]
struct Uses {
    members: bool,
    maglev: bool,
}

/// Lists with other contents are other lists; those that stay the same keep their numbers.
fn next_lists(
    mut old: Vec<List>,
    plans: Vec<(ListKey, Vec<Target>)>,
    backends: &[(Target, u32)],
    uses: Uses,
    numbers: &mut Numbers,
    change: &mut Change,
) -> Vec<List> {
    let mut next = Vec::with_capacity(plans.len());
    for (key, targets) in plans {
        let ids: Vec<u32> = targets.iter().filter_map(|target| find(backends, *target)).collect();
        let Uses { members, maglev } = uses;
        let same = old.iter().position(|list| {
            let like = list.members == members && list.maglev.is_some() == maglev;
            list.key == key && like && list.backends == ids
        });
        if let Some(index) = same {
            next.push(old.swap_remove(index));
            continue;
        }
        let id = numbers.list(&ids, members);
        let maglev = maglev.then(|| maglev::table(&targets));
        let list = List { key, id, members, maglev, backends: ids };
        change.put.slots.extend(list.slots());
        change.put.members.extend(list.members());
        change.put.maglev.extend(list.maglev());
        next.push(list);
    }
    for list in old {
        list.remove(numbers, change);
    }
    next
}

fn next_ranges(service: u32, old: &[LpmKey], new: &[LpmKey], change: &mut Change) {
    let missing = new.iter().filter(|range| !old.contains(range));
    change.put.source_ranges.extend(missing.map(|range| range_key(service, *range)));
    let stale = old.iter().filter(|range| !new.contains(range));
    change.remove.source_ranges.extend(stale.map(|range| range_key(service, *range)));
}

fn frontend(
    service: u32,
    affinity: u32,
    maglev: bool,
    plan: &FrontendPlan,
    lists: &[List],
) -> Frontend {
    let FrontendPlan { key: _, kind, flags, inside, outside } = *plan;
    let flags = if maglev { flags.with(FrontendFlags::MAGLEV) } else { flags };
    let list = |key: ListKey| {
        lists.iter().find(|list| list.key == key).map_or(BackendList::default(), |list| {
            BackendList { id: list.id, count: list.backends.len() as u32 }
        })
    };
    Frontend {
        service,
        inside: list(inside),
        outside: list(outside),
        affinity,
        flags,
        kind,
        pad: 0,
    }
}

/// The entry that rejects ports which the address does not serve.
fn any_port(cluster_ip: Addr) -> (FrontendKey, Frontend) {
    let frontend = Frontend {
        service: 0,
        inside: BackendList::default(),
        outside: BackendList::default(),
        affinity: 0,
        flags: FrontendFlags::default(),
        kind: FrontendKind::CLUSTER_IP,
        pad: 0,
    };
    (FrontendKey::any_port(cluster_ip), frontend)
}

fn find(backends: &[(Target, u32)], (addr, port): Target) -> Option<u32> {
    let index = backends
        .binary_search_by_key(&order(addr, port), |((addr, port), _)| order(*addr, *port))
        .ok()?;
    Some(backends[index].1)
}

fn key_order(key: FrontendKey) -> ([u8; 16], u16, u8, u8) {
    let (addr, port) = order(key.addr, key.port);
    (addr, port, key.protocol.0, key.origin)
}

fn backend_value((addr, port): Target, protocol: Protocol, service: u32) -> Backend {
    Backend { addr, port, protocol: ip_protocol(protocol), pad: 0, service }
}

fn range_key(service: u32, range: LpmKey) -> SourceRangeKey {
    SourceRangeKey { prefix_len: 32 + range.prefix_len, service, addr: range.addr }
}

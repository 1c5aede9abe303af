//! The planner: from the model to the maps, a change at a time.

use super::{
    Change, Network, Notice, PodNetwork, Problem, Routing, Settings, Tables,
    addresses::prefixes,
    claims::Claims,
    compile::{Context, ServicePlan, compile},
    detector::Detected,
    health::HealthCheck,
    host_ports::{HostPorts, compile_pod, served_addresses},
    masquerade::non_masquerade,
    network::carries_pods,
    owner::{Claim, Owner},
    routing::{KernelRoutes, Ways},
    service::{Numbers, ServiceState},
};
use crate::model::{Dirty, Family, Forwarding, Model, ObjectName};
use datapath_common::{Address, Frontend, FrontendKey};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    num::NonZeroU16,
};

/// How many service ports have endpoints, but none that their policy Local allows here.
pub type NoLocalEndpoints = HashMap<(Family, &'static str), u64>;

/// Knows what the maps should hold, and what changes it.
///
/// The work for an event follows the size of the Services that it concerns, but for changes of the
/// node itself (its zone, its addresses, the first podCIDR), which concern all.
#[derive(Debug)]
pub struct Planner {
    settings: Settings,
    context: Context,
    network: Network,
    detected: Detected,
    numbers: Numbers,
    /// Services, and pods with host ports.
    owners: HashMap<Owner, ServiceState>,
    claims: Claims,
    /// Family, port and number of ready endpoints here, of Services that ask for a health check
    /// server.
    health: HashMap<ObjectName, Vec<(Family, NonZeroU16, usize)>>,
    /// Host ports that pods go without, since node ports have them.
    shadowed: HashMap<ObjectName, Vec<FrontendKey>>,
    /// The tables that are not about Services; the others stay empty here.
    node: Tables,
    notices: Vec<Notice>,
    /// Whether the model has been complete once.
    settled: bool,
    /// Who carries packets between pods, after all.
    routing: Routing,
    kernel_routes: KernelRoutes,
    pod_network: Option<PodNetwork>,
    /// Whether a Service has direct server return, or may have.
    dsr: bool,
}

impl Planner {
    /// Knows nothing yet, but will give what it finds the numbers that it has in `maps`.
    pub fn new(settings: Settings, maps: &Tables) -> Self {
        let context = Context {
            node: settings.node.clone(),
            zone: None,
            addresses: Vec::new(),
            detected: Vec::new(),
            masquerade_all: settings.masquerade_all,
            algorithm: settings.algorithm,
            forwarding: settings.forwarding,
            proxy_name: settings.proxy_name.clone(),
        };
        Self {
            settings,
            context,
            network: Network::default(),
            detected: Detected::default(),
            numbers: Numbers::new(maps),
            owners: HashMap::new(),
            claims: Claims::default(),
            health: HashMap::new(),
            shadowed: HashMap::new(),
            node: Tables::default(),
            notices: Vec::new(),
            settled: false,
            routing: Routing::None,
            kernel_routes: KernelRoutes::new(),
            pod_network: None,
            dsr: false,
        }
    }

    /// Takes in what has changed in the model.
    pub fn update(&mut self, model: &Model, dirty: &Dirty) -> Change {
        let mut change = Change::default();
        if dirty.nodes || dirty.service_cidrs || self.dsr != self.wants_dsr(model) {
            change = self.replan_node(model);
        }
        let mut owners: BTreeSet<Owner> = dirty.pods.iter().cloned().map(Owner::Pod).collect();
        if dirty.nodes {
            owners.extend(pods(model));
        }
        let context = self.context(model);
        if context == self.context {
            owners.extend(dirty.services.iter().cloned().map(Owner::Service));
        } else {
            self.context = context;
            owners.extend(self.services());
            owners.extend(model.service_names().cloned().map(Owner::Service));
        }
        self.replan(model, &owners, &mut change);
        change
    }

    /// Plans everything anew.
    pub fn update_all(&mut self, model: &Model) -> Change {
        let mut change = self.replan_node(model);
        self.context = self.context(model);
        let mut all: BTreeSet<Owner> = self.owners.keys().cloned().collect();
        all.extend(model.service_names().cloned().map(Owner::Service));
        all.extend(pods(model));
        self.replan(model, &all, &mut change);
        change
    }

    /// What has come up since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        Notice::merge(std::mem::take(&mut self.notices))
    }

    /// Takes in what the kernel says of the node's network.
    pub fn update_network(&mut self, model: &Model, network: Network) -> Change {
        self.network = network;
        let mut change = self.replan_node(model);
        let mut owners = BTreeSet::new();
        if self.settled {
            // Before, it is not known what the Services leave to them.
            owners.extend(pods(model));
        }
        let context = self.context(model);
        if context != self.context {
            self.context = context;
            owners.extend(self.services());
        }
        self.replan(model, &owners, &mut change);
        change
    }

    /// Gives up numbers of the run before for what has not been seen by now. To be called once,
    /// when the model is complete.
    pub fn settle(&mut self) {
        self.settled = true;
        self.numbers.settle(&self.owners.values().collect::<Vec<_>>());
    }

    /// All that the maps should hold.
    pub fn tables(&self) -> Tables {
        let mut tables = self.node.clone();
        for (owner, state) in &self.owners {
            state.add_to(owner, &mut tables);
        }
        tables.frontends = self
            .claims
            .iter()
            .filter_map(|(key, holder)| Some((key, self.owners.get(holder)?.frontend(key)?)))
            .collect();
        tables
    }

    /// The health check servers that Services ask for.
    pub fn health_checks(&self) -> impl Iterator<Item = HealthCheck> {
        self.health.iter().flat_map(|(service, families)| {
            families.iter().map(|(family, port, local_endpoints)| HealthCheck {
                service: service.clone(),
                family: *family,
                addresses: self.node_port_addresses(*family),
                port: *port,
                local_endpoints: *local_endpoints,
            })
        })
    }

    /// The node's addresses that serve node ports; the wildcard for all.
    fn node_port_addresses(&self, family: Family) -> Vec<IpAddr> {
        let served = &self.settings.node_port_addresses;
        if served.is_all(family) {
            return vec![family.wildcard()];
        }
        let primary = &self.context.addresses;
        let addresses = self.network.host_addresses.iter().copied();
        let of_family = addresses.filter(|address| Family::of(*address) == family);
        of_family.filter(|address| served.include(*address, primary)).collect()
    }

    /// Service ports whose policy Local leaves nothing here, by family and policy.
    pub fn no_local_endpoints(&self) -> NoLocalEndpoints {
        let mut counts = NoLocalEndpoints::new();
        for key in self.owners.values().flat_map(ServiceState::no_local) {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    /// Ids of all service ports and host ports, each with its label.
    pub fn labels(&self) -> impl Iterator<Item = (u32, String)> {
        self.owners.iter().flat_map(|(owner, state)| state.labels(owner))
    }

    /// What the operator decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The node's network as last told.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether pods are carried by us anywhere.
    pub fn carries_pods(&self) -> bool {
        self.routing.is_ours() || carries_pods(&self.node.routes)
    }

    /// Routes that the kernel's main table should hold.
    pub fn kernel_routes(&self) -> &KernelRoutes {
        &self.kernel_routes
    }

    /// Whether other nodes may pass packets on to this one, and the reverse.
    pub fn has_dsr(&self) -> bool {
        self.dsr
    }

    /// What this node's pods are connected with, where that is up to us; `None` until it is known.
    pub fn pod_network(&self) -> Option<&PodNetwork> {
        self.pod_network.as_ref()
    }

    /// Who carries packets between pods: what the operator decided, or what became of `auto`.
    pub fn routing(&self) -> Routing {
        self.routing
    }

    /// Whether it is known which clients are pods.
    pub fn detects_pods(&self) -> bool {
        !self.context.detected.is_empty()
    }

    /// Whether the device that a client's packets come in by tells that.
    pub fn detects_by_device(&self) -> bool {
        self.detected.devices.is_some()
    }

    /// Families of which every process in a pod of this node counts as such.
    pub fn all_pods_count(&self) -> BTreeSet<Family> {
        self.detected.complete(&self.network)
    }

    fn context(&self, model: &Model) -> Context {
        let node = model.node(&self.settings.node);
        Context {
            node: self.settings.node.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            addresses: self.network.primary(&self.settings, model),
            detected: self.detected.families().into_iter().collect(),
            masquerade_all: self.settings.masquerade_all,
            algorithm: self.settings.algorithm,
            forwarding: self.settings.forwarding,
            proxy_name: self.settings.proxy_name.clone(),
        }
    }

    fn wants_dsr(&self, model: &Model) -> bool {
        self.settings.forwarding == Forwarding::Dsr || model.wants_dsr()
    }

    fn replan_node(&mut self, model: &Model) -> Change {
        self.dsr = self.wants_dsr(model);
        self.detected = self.settings.local.detect(&self.settings, model, &self.network);
        let Detected { ranges, devices } = &self.detected;
        let ways = Ways::new(&self.settings, &self.network, model, self.dsr);
        self.routing = ways.routing();
        self.kernel_routes = ways.kernel_routes(model);
        self.pod_network = ways.pod_network();
        let next = Tables {
            addresses: self.network.addresses(&self.settings, model),
            routes: self.network.routes(&ways, model),
            local_clients: ranges.iter().copied().flat_map(prefixes).collect(),
            local_devices: devices.iter().flatten().copied().collect(),
            non_masquerade: non_masquerade(&self.settings, model),
            ..Tables::default()
        };
        let change = Change::between(&self.node, &next);
        self.node = next;
        change
    }

    /// The Services that have something in the maps.
    fn services(&self) -> impl Iterator<Item = Owner> {
        self.owners.keys().filter(|owner| matches!(owner, Owner::Service(_))).cloned()
    }

    /// Replans what these own; host ports also where node ports come or go.
    fn replan(&mut self, model: &Model, owners: &BTreeSet<Owner>, change: &mut Change) {
        let mut before: HashMap<FrontendKey, Option<Frontend>> = HashMap::new();
        for owner in owners {
            self.replan_owner(model, owner, &mut before, change);
        }
        let has_changed = |key: &FrontendKey, old: &Option<Frontend>| {
            key.addr.is_unspecified() && old.is_some() != self.frontend(*key).is_some()
        };
        if before.iter().any(|(key, old)| has_changed(key, old)) {
            for pod in pods(model) {
                self.replan_owner(model, &pod, &mut before, change);
            }
        }
        for (key, old) in before {
            match self.frontend(key) {
                new if new == old => {}
                Some(new) => {
                    change.put.frontends.insert(key, new);
                }
                None => change.remove.frontends.push(key),
            }
        }
    }

    /// Replans one owner; the frontends that it had or gets are noted in `before` with the values
    /// that they had, whoever held them.
    fn replan_owner(
        &mut self,
        model: &Model,
        owner: &Owner,
        before: &mut HashMap<FrontendKey, Option<Frontend>>,
        change: &mut Change,
    ) {
        let plan = self.plan(model, owner);
        for key in self.owners.get(owner).into_iter().flat_map(|old| &old.frontends) {
            before.entry(key.0).or_insert_with(|| self.frontend(key.0));
        }
        let old = self.owners.remove(owner).unwrap_or_default();
        let old_keys: HashSet<FrontendKey> = old.frontends.iter().map(|(key, _)| *key).collect();
        let old_claim = Claim { created: old.created, owner: owner.clone() };
        let next = old.become_planned(owner, plan, &mut self.numbers, change);
        let claim = Claim { created: next.created, owner: owner.clone() };
        let keeps = |key| claim == old_claim && old_keys.contains(&key);
        for (key, _) in next.frontends.iter().filter(|(key, _)| !keeps(*key)) {
            before.entry(*key).or_insert_with(|| self.frontend(*key));
        }
        let next_keys: HashSet<FrontendKey> = next.frontends.iter().map(|(key, _)| *key).collect();
        for key in &old_keys {
            if claim != old_claim || !next_keys.contains(key) {
                self.claims.remove(*key, &old_claim);
            }
        }
        for key in next_keys.iter().filter(|key| !keeps(**key)) {
            let loser = self.claims.add(*key, claim.clone());
            if key.origin == FrontendKey::PASSED_ON {
                // The same has been said of the frontend that it stands beside.
                continue;
            }
            if let Some(loser) = loser
                && let Some(holder) = self.claims.holder(*key).cloned()
            {
                self.note_conflict(*key, loser, holder);
            }
            self.check_node_port(owner, *key);
        }
        if !next.frontends.is_empty() {
            self.owners.insert(owner.clone(), next);
        }
    }

    /// What the owner should have.
    fn plan(&mut self, model: &Model, owner: &Owner) -> ServicePlan {
        let name = match owner {
            Owner::Service(name) => name,
            Owner::Pod(name) => return self.plan_pod(model, name),
        };
        let plan = compile(model, name, &self.context);
        if plan.health.is_empty() {
            self.health.remove(name);
        } else {
            self.health.insert(name.clone(), plan.health.clone());
        }
        plan
    }

    fn plan_pod(&mut self, model: &Model, name: &ObjectName) -> ServicePlan {
        let own = self.settings.node.name();
        let pod = model.pod(name).filter(|pod| pod.node.as_deref() == Some(own));
        let HostPorts { plan, shadowed } = pod.map_or_else(HostPorts::default, |pod| {
            let addresses = served_addresses(&self.network);
            compile_pod(pod, &addresses, |key| self.node_port(key).is_some())
        });
        let before = self.shadowed.remove(name).unwrap_or_default();
        for key in shadowed.iter().filter(|key| !before.contains(key)) {
            if let Some(holder) = self.node_port(*key).cloned() {
                self.note_conflict(*key, Owner::Pod(name.clone()), holder);
            }
        }
        if !shadowed.is_empty() {
            self.shadowed.insert(name.clone(), shadowed);
        }
        plan
    }

    /// Whose node port answers at this address of the node.
    fn node_port(&self, key: FrontendKey) -> Option<&Owner> {
        let served = match self.node.addresses.get(&key.addr) {
            Some(address) => address.flags & Address::NODE_PORT != 0,
            // Addresses that are not in the map are loopback ones.
            None => self.settings.node_port_addresses.include_localhost(Family::of(key.addr.ip())),
        };
        let key = FrontendKey { addr: key.addr.wildcard(), ..key };
        self.claims.holder(key).filter(|_| served)
    }

    fn note_conflict(&mut self, key: FrontendKey, loser: Owner, holder: Owner) {
        self.notices.push(Notice::claimed(loser, key, holder));
    }

    /// Notes a node port that answers to masqueraded flows would come to.
    fn check_node_port(&mut self, owner: &Owner, key: FrontendKey) {
        let (first, last) = self.settings.masquerade_ports;
        let port = key.port.host();
        if key.addr.is_unspecified() && (first..=last).contains(&port) {
            let problem = Problem::MasqueradePort(port);
            self.notices.push(Notice { owner: owner.clone(), problem });
        }
    }

    /// What `FRONTENDS` should hold at `key`.
    fn frontend(&self, key: FrontendKey) -> Option<Frontend> {
        self.owners.get(self.claims.holder(key)?)?.frontend(key)
    }
}

/// The pods with host ports.
fn pods(model: &Model) -> impl Iterator<Item = Owner> {
    let pods = model.pods().filter(|pod| !pod.host_ports.is_empty());
    pods.map(|pod| Owner::Pod(pod.name.clone()))
}

//! The planner: from the model to the maps, a change at a time.

use super::{
    Change, Network, Settings, Tables,
    addresses::prefixes,
    claims::{Claim, Claims},
    compile::{Context, compile},
    network::local_clients,
    service::{Numbers, ServiceState},
};
use crate::model::{Dirty, Family, Model, ObjectName};
use datapath_common::{Frontend, FrontendKey};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    num::NonZeroU16,
};
use tracing::warn;

/// A health check server that a Service asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// The port to listen on.
    pub port: NonZeroU16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

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
    numbers: Numbers,
    services: HashMap<ObjectName, ServiceState>,
    claims: Claims,
    /// Port and number of ready endpoints here, of Services that ask for a health check server.
    health: HashMap<ObjectName, (NonZeroU16, usize)>,
    /// The tables that are not about Services; the others stay empty here.
    node: Tables,
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
            proxy_name: settings.proxy_name.clone(),
        };
        Self {
            settings,
            context,
            network: Network::default(),
            numbers: Numbers::new(maps),
            services: HashMap::new(),
            claims: Claims::default(),
            health: HashMap::new(),
            node: Tables::default(),
        }
    }

    /// Takes in what has changed in the model.
    pub fn update(&mut self, model: &Model, dirty: &Dirty) -> Change {
        let mut change = Change::default();
        if dirty.nodes || dirty.service_cidrs {
            change = self.replan_node(model);
        }
        let context = self.context(model);
        if context == self.context {
            self.replan(model, &dirty.services, &mut change);
        } else {
            self.context = context;
            let all = self.services.keys().chain(model.service_names()).cloned().collect();
            self.replan(model, &all, &mut change);
        }
        change
    }

    /// Takes in what the kernel says of the node's network.
    pub fn update_network(&mut self, model: &Model, network: Network) -> Change {
        self.network = network;
        let mut change = self.replan_node(model);
        let context = self.context(model);
        if context != self.context {
            self.context = context;
            let all = self.services.keys().cloned().collect();
            self.replan(model, &all, &mut change);
        }
        change
    }

    /// Gives up numbers of the run before for what has not been seen by now. To be called once,
    /// when the model is complete.
    pub fn settle(&mut self) {
        self.numbers.settle(&self.services.values().collect::<Vec<_>>());
    }

    /// All that the maps should hold.
    pub fn tables(&self) -> Tables {
        let mut tables = self.node.clone();
        for (name, service) in &self.services {
            service.add_to(name, &mut tables);
        }
        tables.frontends = self
            .claims
            .iter()
            .filter_map(|(key, holder)| Some((key, self.services.get(holder)?.frontend(key)?)))
            .collect();
        tables
    }

    /// The health check servers that Services ask for.
    pub fn health_checks(&self) -> impl Iterator<Item = HealthCheck> {
        self.health.iter().map(|(service, (port, local_endpoints))| HealthCheck {
            service: service.clone(),
            port: *port,
            local_endpoints: *local_endpoints,
        })
    }

    /// Service ports whose policy Local leaves nothing here, by family and policy.
    pub fn no_local_endpoints(&self) -> NoLocalEndpoints {
        let mut counts = NoLocalEndpoints::new();
        for key in self.services.values().flat_map(ServiceState::no_local) {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    /// Ids of all service ports, each with its label.
    pub fn labels(&self) -> impl Iterator<Item = (u32, String)> {
        self.services.iter().flat_map(|(name, state)| state.labels(name))
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
        use datapath_common::RouteKind;
        self.settings.routing == super::Routing::Native
            || self.node.routes.values().any(|route| route.kind == RouteKind::REMOTE)
    }

    /// Families of which it is known which sources are pods.
    pub fn detects_pods(&self) -> bool {
        !self.context.detected.is_empty()
    }

    fn context(&self, model: &Model) -> Context {
        let node = model.node(&self.settings.node);
        let detected: BTreeSet<Family> =
            local_clients(&self.settings, model).into_iter().map(Family::of_net).collect();
        Context {
            node: self.settings.node.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            addresses: Family::ALL
                .iter()
                .filter_map(|family| self.network.node_address(node, *family))
                .collect(),
            detected: detected.into_iter().collect(),
            masquerade_all: self.settings.masquerade_all,
            proxy_name: self.settings.proxy_name.clone(),
        }
    }

    fn replan_node(&mut self, model: &Model) -> Change {
        let next = Tables {
            addresses: self.network.addresses(&self.settings, model),
            routes: self.network.routes(&self.settings, model),
            local_clients: local_clients(&self.settings, model)
                .into_iter()
                .flat_map(prefixes)
                .collect(),
            ..Tables::default()
        };
        let change = Change::between(&self.node, &next);
        self.node = next;
        change
    }

    fn replan(&mut self, model: &Model, services: &BTreeSet<ObjectName>, change: &mut Change) {
        let mut before: HashMap<FrontendKey, Option<Frontend>> = HashMap::new();
        for name in services {
            self.replan_service(model, name, &mut before, change);
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

    /// Replans one Service; the frontends that it had or gets are noted in `before` with the values
    /// that they had, whoever held them.
    fn replan_service(
        &mut self,
        model: &Model,
        name: &ObjectName,
        before: &mut HashMap<FrontendKey, Option<Frontend>>,
        change: &mut Change,
    ) {
        let plan = compile(model, name, &self.context);
        match plan.health {
            Some(health) => _ = self.health.insert(name.clone(), health),
            None => _ = self.health.remove(name),
        }
        for key in self.services.get(name).into_iter().flat_map(|old| &old.frontends) {
            before.entry(key.0).or_insert_with(|| self.frontend(key.0));
        }
        let old = self.services.remove(name).unwrap_or_default();
        let old_keys: HashSet<FrontendKey> = old.frontends.iter().map(|(key, _)| *key).collect();
        let old_claim = Claim { created: old.created, service: name.clone() };
        let next = old.become_planned(name, plan, &mut self.numbers, change);
        let claim = Claim { created: next.created, service: name.clone() };
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
            if let Some(loser) = self.claims.add(*key, claim.clone()) {
                let holder = self.claims.holder(*key);
                warn!(address = %key.addr, port = key.port.host(), protocol = ?key.protocol,
                    service = %loser, holder = ?holder,
                    "two Services claim one address and port; the older has it");
            }
        }
        if !next.frontends.is_empty() {
            self.services.insert(name.clone(), next);
        }
    }

    /// What `FRONTENDS` should hold at `key`.
    fn frontend(&self, key: FrontendKey) -> Option<Frontend> {
        self.services.get(self.claims.holder(key)?)?.frontend(key)
    }
}

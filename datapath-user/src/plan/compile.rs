//! From a Service to what it should have in the maps, before anything has a number.

use super::{
    addresses::prefixes,
    endpoints::{Candidate, Categories, Place, Uses, categorize, is_local, join},
};
use crate::model::{
    Algorithm, Family, Forwarding, Model, ObjectName, Protocol, Service, ServicePort, ServiceType,
    TrafficPolicy,
};
use datapath_common::{
    Addr, Be16, FrontendFlags, FrontendKey, FrontendKind, LpmKey, Protocol as IpProtocol,
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16, sync::Arc};

/// What all Services of this node have in common.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Context {
    pub(super) node: ObjectName,
    pub(super) zone: Option<Arc<str>>,
    /// The node's addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Families of which it is known which sources are pods.
    pub(super) detected: Vec<Family>,
    pub(super) masquerade_all: bool,
    /// How backends are chosen, unless a Service says otherwise.
    pub(super) algorithm: Algorithm,
    /// How what comes from outside reaches other nodes, unless a Service says otherwise.
    pub(super) forwarding: Forwarding,
    pub(super) proxy_name: Option<String>,
}

impl Context {
    fn place(&self) -> Place<'_> {
        Place { node: self.node.name(), zone: self.zone.as_deref() }
    }

    /// Whether kube-proxy would look at the Service (`ShouldSkipService`, and the label selector of
    /// its watch).
    fn is_ours(&self, service: &Service) -> bool {
        service.kind != ServiceType::ExternalName
            && !service.cluster_ips.is_empty()
            && service.proxy_name.as_deref() == self.proxy_name.as_deref()
    }
}

/// Which of a service port's lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListKey {
    pub(super) family: Family,
    pub(super) policy: TrafficPolicy,
}

/// An endpoint as the maps know it.
pub(super) type Target = (Addr, Be16);

/// One frontend of a service port.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrontendPlan {
    pub(super) key: FrontendKey,
    pub(super) kind: FrontendKind,
    pub(super) flags: FrontendFlags,
    pub(super) inside: ListKey,
    pub(super) outside: ListKey,
}

/// One port of a Service.
#[derive(Debug)]
pub(super) struct PortPlan {
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) affinity: u32,
    /// Whether all nodes are to choose the same backend.
    pub(super) maglev: bool,
    /// Endpoints that are ready or serving, in order.
    pub(super) backends: Vec<Target>,
    /// The lists that are not empty.
    pub(super) lists: Vec<(ListKey, Vec<Target>)>,
    /// Allowed sources for load balancer addresses.
    pub(super) ranges: Vec<LpmKey>,
    pub(super) frontends: Vec<FrontendPlan>,
    /// Families in which a policy Local leaves nothing although there are endpoints.
    pub(super) no_local: Vec<(Family, &'static str)>,
}

impl PortPlan {
    /// Brings what the plan holds into the order that everybody relies on.
    pub(super) fn sort(&mut self) {
        self.backends.sort_by_key(|(addr, port)| order(*addr, *port));
        self.ranges.sort_by_key(|key| (bytemuck::cast::<_, [u8; 16]>(key.addr.0), key.prefix_len));
        self.ranges.dedup();
    }
}

/// A Service, or the host ports of a pod.
#[derive(Debug, Default)]
pub(super) struct ServicePlan {
    pub(super) created: i64,
    pub(super) cluster_ips: Vec<Addr>,
    pub(super) ports: Vec<PortPlan>,
    /// Per family: port of the health check server, and how many ready endpoints are here.
    pub(super) health: Vec<(Family, NonZeroU16, usize)>,
}

/// What the Service of that name should have; nothing if it is not there or not ours.
pub(super) fn compile(model: &Model, name: &ObjectName, context: &Context) -> ServicePlan {
    let Some(service) = model.service(name).filter(|service| context.is_ours(service)) else {
        return ServicePlan::default();
    };
    ServicePlan {
        created: service.created,
        cluster_ips: service.cluster_ips.iter().map(|ip| Addr::from(*ip)).collect(),
        ports: service
            .ports
            .iter()
            .map(|port| compile_port(model, service, port, context))
            .collect(),
        health: health(model, service, context),
    }
}

fn compile_port(
    model: &Model,
    service: &Service,
    port: &ServicePort,
    context: &Context,
) -> PortPlan {
    let mut plan = PortPlan {
        name: port.name.clone(),
        protocol: port.protocol,
        affinity: service.affinity.unwrap_or(0),
        maglev: service.algorithm.unwrap_or(context.algorithm) == Algorithm::Maglev,
        backends: Vec::new(),
        lists: Vec::new(),
        ranges: Vec::new(),
        frontends: Vec::new(),
        no_local: Vec::new(),
    };
    for cluster_ip in &service.cluster_ips {
        let side = Side::new(service, port, *cluster_ip, context);
        let candidates = join(model.slices(&service.name), port, side.family);
        let categories = categorize(&candidates, side.uses(), context.place());
        plan.backends.extend(
            candidates
                .iter()
                .filter(|c| c.endpoint.conditions.ready || c.endpoint.conditions.serving)
                .map(place_of),
        );
        side.add_frontends(&mut plan, &categories);
        let Categories { cluster, local, any: _ } = categories;
        for (policy, list) in [(TrafficPolicy::Cluster, cluster), (TrafficPolicy::Local, local)] {
            if !list.is_empty() {
                let key = ListKey { family: side.family, policy };
                plan.lists.push((key, list.iter().map(place_of).collect()));
            }
        }
    }
    plan.sort();
    plan
}

/// Order of backends: any would do as long as it is always the same.
pub(super) fn order(addr: Addr, port: Be16) -> ([u8; 16], u16) {
    (bytemuck::cast(addr.0), port.host())
}

fn place_of(candidate: &Candidate<'_>) -> Target {
    (candidate.addr, candidate.port)
}

/// One family of a service port. kube-proxy runs one proxier per family; each sees a Service only
/// if it has a cluster address of that family, and then only addresses of that family.
struct Side<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    context: &'a Context,
    family: Family,
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    vips: Vec<IpAddr>,
    /// Source ranges of the family; empty if they do not restrict it.
    ranges: Vec<IpNet>,
}

impl<'a> Side<'a> {
    fn new(
        service: &'a Service,
        port: &'a ServicePort,
        cluster_ip: IpAddr,
        context: &'a Context,
    ) -> Self {
        let family = Family::of(cluster_ip);
        let of_family = |ips: &[IpAddr]| -> Vec<IpAddr> {
            ips.iter().copied().filter(|ip| Family::of(*ip) == family).collect()
        };
        let mut ranges: Vec<IpNet> = service
            .source_ranges
            .iter()
            .copied()
            .filter(|range| Family::of_net(*range) == family)
            .collect();
        // A range of everything means the same as no range (kube-proxy: IsZeroCIDR).
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            ranges.clear();
        }
        let (external_ips, vips) =
            (of_family(&service.external_ips), of_family(&service.load_balancer_vips));
        Self { service, port, context, family, cluster_ip, external_ips, vips, ranges }
    }

    fn is_external(&self) -> bool {
        self.port.node_port.is_some() || !self.vips.is_empty() || !self.external_ips.is_empty()
    }

    fn uses(&self) -> Uses {
        let internal_local = self.service.internal_policy == TrafficPolicy::Local;
        let external_local = self.service.is_external_local() || self.is_passed_on();
        Uses {
            cluster: !internal_local || self.is_external(),
            local: internal_local || (external_local && self.is_external()),
        }
    }

    /// Whether nodes pass on to each other what comes from outside. Under the policy Local they never
    /// have to.
    fn is_passed_on(&self) -> bool {
        let forwarding = self.service.forwarding.unwrap_or(self.context.forwarding);
        forwarding == Forwarding::Dsr && !self.service.is_external_local()
    }

    fn list(&self, policy: TrafficPolicy) -> ListKey {
        ListKey { family: self.family, policy }
    }

    fn add_frontends(&self, plan: &mut PortPlan, categories: &Categories<'_>) {
        let no_local = categories.any && categories.local.is_empty();
        self.add_internal(plan, no_local);
        if self.is_external() {
            self.add_external(plan, no_local);
        }
    }

    fn add_internal(&self, plan: &mut PortPlan, no_local: bool) {
        let policy = self.service.internal_policy;
        let mut flags = FrontendFlags::default();
        if self.context.masquerade_all {
            flags = flags.with(MASQUERADE_EVERYBODY);
        } else if self.context.detected.contains(&self.family) {
            // The host's own addresses are not pods' either.
            flags =
                flags.with(FrontendFlags::MASQUERADE_OUTSIDE).with(FrontendFlags::MASQUERADE_HOST);
        }
        if policy == TrafficPolicy::Local && no_local {
            flags = flags.with(FrontendFlags::DROP_INSIDE).with(FrontendFlags::DROP_OUTSIDE);
            plan.no_local.push((self.family, "internal"));
        }
        plan.frontends.push(FrontendPlan {
            key: self.key(self.cluster_ip.into(), self.port.port),
            kind: FrontendKind::CLUSTER_IP,
            flags,
            inside: self.list(policy),
            outside: self.list(policy),
        });
    }

    fn add_external(&self, plan: &mut PortPlan, no_local: bool) {
        let mut flags = MASQUERADE_EVERYBODY;
        let mut outside = TrafficPolicy::Cluster;
        if self.service.is_external_local() {
            flags = FrontendFlags::MASQUERADE_HOST;
            outside = TrafficPolicy::Local;
            if no_local {
                flags = flags.with(FrontendFlags::DROP_OUTSIDE);
                plan.no_local.push((self.family, "external"));
            }
        }
        let passed_on = self.is_passed_on();
        if passed_on {
            flags = flags.with(FrontendFlags::DSR);
        }
        let mut add = |addr: Addr, port, kind, flags| {
            let key = self.key(addr, port);
            plan.frontends.push(FrontendPlan {
                key,
                kind,
                flags,
                // Clients of this node are not bound by the policy: they would reach a load
                // balancer that may send them anywhere.
                inside: self.list(TrafficPolicy::Cluster),
                outside: self.list(outside),
            });
            if passed_on {
                plan.frontends.push(self.passed_on(key, kind, no_local));
            }
        };
        let mut vip_flags = flags;
        if !self.ranges.is_empty() {
            vip_flags = vip_flags.with(FrontendFlags::SOURCE_RANGES);
        }
        for vip in &self.vips {
            add((*vip).into(), self.port.port, FrontendKind::LOAD_BALANCER, vip_flags);
        }
        for ip in &self.external_ips {
            add((*ip).into(), self.port.port, FrontendKind::EXTERNAL_IP, flags);
        }
        if let Some(node_port) = self.port.node_port {
            let wildcard = Addr::from(self.cluster_ip).wildcard();
            add(wildcard, node_port, FrontendKind::NODE_PORT, flags);
        }
        plan.ranges.extend(self.source_keys());
    }

    /// The frontend for what another node passes on: it has seen to who may come, and it ends here.
    fn passed_on(&self, key: FrontendKey, kind: FrontendKind, no_local: bool) -> FrontendPlan {
        let local = self.list(TrafficPolicy::Local);
        let drop = if no_local { FrontendFlags::DROP_OUTSIDE } else { FrontendFlags::default() };
        FrontendPlan { key: key.passed_on(), kind, flags: drop, inside: local, outside: local }
    }

    /// The sources that may use load balancer addresses.
    fn source_keys(&self) -> Vec<LpmKey> {
        if self.vips.is_empty() || self.ranges.is_empty() {
            return Vec::new();
        }
        let mut keys: Vec<LpmKey> = self.ranges.iter().copied().flat_map(prefixes).collect();
        // A node may have the address of a load balancer itself, and is then its own client.
        let mut node = self.context.addresses.iter();
        if node.any(|address| self.ranges.iter().any(|range| range.contains(address))) {
            keys.extend(self.vips.iter().map(|vip| LpmKey::host((*vip).into())));
        }
        keys
    }

    fn key(&self, addr: Addr, port: NonZeroU16) -> FrontendKey {
        FrontendKey::new(addr, Be16::new(port.get()), ip_protocol(self.port.protocol))
    }
}

const MASQUERADE_EVERYBODY: FrontendFlags = FrontendFlags::MASQUERADE_POD
    .with(FrontendFlags::MASQUERADE_HOST)
    .with(FrontendFlags::MASQUERADE_OUTSIDE);

/// The protocol's number in packets.
pub(super) const fn ip_protocol(protocol: Protocol) -> IpProtocol {
    match protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
        Protocol::Sctp => IpProtocol::SCTP,
    }
}

/// The health check servers that the Service asks for (`NeedsHealthCheck`), one in each of its
/// families: its port, and the number of ready endpoints on this node, over all ports.
fn health(model: &Model, service: &Service, context: &Context) -> Vec<(Family, NonZeroU16, usize)> {
    let needed = service.kind == ServiceType::LoadBalancer && service.is_external_local();
    let Some(port) = service.health_check_node_port.filter(|_| needed) else {
        return Vec::new();
    };
    let local = |family| {
        let candidates =
            service.ports.iter().flat_map(|port| join(model.slices(&service.name), port, family));
        let ready = candidates
            .filter(|candidate| candidate.endpoint.conditions.ready)
            .filter(|candidate| is_local(candidate, context.place()));
        ready.map(|candidate| candidate.endpoint.address).collect::<BTreeSet<IpAddr>>().len()
    };
    let families: BTreeSet<Family> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
    families.into_iter().map(|family| (family, port, local(family))).collect()
}

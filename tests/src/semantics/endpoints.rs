//! Which endpoints of a Service port may be used (reference 1.1 and 1.3).

use super::facts::{Cluster, Endpoint, Port, Service};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

impl Endpoint {
    fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }

    /// Whether it is used where there is no ready one.
    fn is_last_resort(&self) -> bool {
        self.serving.unwrap_or(true) && self.is_terminating()
    }

    fn is_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }
}

/// The endpoints of one family of a Service port.
pub(super) struct Endpoints<'a>(BTreeMap<SocketAddr, &'a Endpoint>);

impl<'a> Endpoints<'a> {
    /// Reads all slices. Of two entries for one address and port the later counts, unless it is
    /// terminating. Which of two slices is the later one is left open by kube-proxy; here, names
    /// decide.
    pub(super) fn of(cluster: &'a Cluster, service: &Service, port: &Port, like: IpAddr) -> Self {
        let mut found = BTreeMap::new();
        for slice in cluster.slices.values() {
            if slice.headless
                || slice.service.as_ref() != Some(&service.name)
                || slice.v6 != like.is_ipv6()
            {
                continue;
            }
            for slice_port in &slice.ports {
                let Some(number) = slice_port.port.filter(|number| *number != 0) else { continue };
                if slice_port.name.as_ref() != Some(&port.name)
                    || slice_port.protocol != port.protocol
                {
                    continue;
                }
                for endpoint in &slice.endpoints {
                    let at = SocketAddr::new(endpoint.address, number);
                    if !endpoint.is_terminating() || !found.contains_key(&at) {
                        found.insert(at, endpoint);
                    }
                }
            }
        }
        Self(found)
    }

    /// Those that are ready, or else those that still serve while they terminate, if `wanted`.
    fn usable(&self, wanted: impl Fn(&Endpoint) -> bool) -> Vec<SocketAddr> {
        let those = |state: fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
            let all = self.0.iter();
            all.filter(|(_, it)| state(it) && wanted(it)).map(|(at, _)| *at).collect()
        };
        let ready = those(Endpoint::is_ready);
        if ready.is_empty() { those(Endpoint::is_last_resort) } else { ready }
    }

    /// Whether anybody in the cluster could use any.
    pub(super) fn any(&self) -> bool {
        !self.usable(|_| true).is_empty()
    }

    /// Those for the policy Local on `node`.
    pub(super) fn local(&self, node: &str) -> Vec<SocketAddr> {
        self.usable(|endpoint| endpoint.is_on(node))
    }

    /// Those for the policy Cluster on `node` in `zone`. Hints count if every ready endpoint has
    /// them and one names us; those for nodes before those for zones.
    pub(super) fn cluster(&self, node: &str, zone: Option<&str>) -> Vec<SocketAddr> {
        let for_us = |names: &[String], us: Option<&str>| {
            us.is_some_and(|us| names.iter().any(|name| name == us))
        };
        let ready: Vec<_> = self.0.values().filter(|endpoint| endpoint.is_ready()).collect();
        let by_node = ready.iter().all(|endpoint| !endpoint.for_nodes.is_empty())
            && ready.iter().any(|endpoint| for_us(&endpoint.for_nodes, Some(node)));
        let by_zone = ready.iter().all(|endpoint| !endpoint.for_zones.is_empty())
            && ready.iter().any(|endpoint| for_us(&endpoint.for_zones, zone));
        if by_node {
            self.usable(|endpoint| for_us(&endpoint.for_nodes, Some(node)))
        } else if by_zone {
            self.usable(|endpoint| for_us(&endpoint.for_zones, zone))
        } else {
            self.usable(|_| true)
        }
    }
}

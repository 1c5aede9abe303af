//! Which endpoints of a service port are used: kube-proxy's `CategorizeEndpoints`
//! (`pkg/proxy/topology.go`) and its join of slices (`pkg/proxy/endpointslicecache.go`).

use crate::model::{Endpoint, Family, ServicePort, Slice};
use datapath_common::{Addr, Be16};

/// An endpoint at a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) addr: Addr,
    pub(super) port: Be16,
    pub(super) endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    /// Order of addresses, then ports; any would do as long as it is always the same.
    pub(super) fn order(&self) -> ([u8; 16], u16) {
        (bytemuck::cast(self.addr.0), self.port.host())
    }

    fn is_ready(&self) -> bool {
        self.endpoint.conditions.ready
    }

    fn is_draining(&self) -> bool {
        self.endpoint.conditions.serving && self.endpoint.conditions.terminating
    }
}

/// The endpoints of one family that the slices name for a service port, in order, each once.
///
/// Of two entries for one address and port the later counts, unless it is terminating: a running
/// pod is preferred to the terminating one whose address it got.
pub(super) fn join<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &ServicePort,
    family: Family,
) -> Vec<Candidate<'a>> {
    let mut candidates: Vec<Candidate<'a>> = slices
        .flat_map(|slice| slice.ports.iter().map(move |slice_port| (slice, slice_port)))
        .filter(|(_, found)| found.name == port.name && found.protocol == port.protocol)
        .flat_map(|(slice, found)| {
            let port = Be16::new(found.port.get());
            slice.endpoints.iter().map(move |endpoint| Candidate {
                addr: endpoint.address.into(),
                port,
                endpoint,
            })
        })
        .filter(|candidate| Family::of(candidate.endpoint.address) == family)
        .collect();
    candidates.sort_by_key(Candidate::order);
    candidates.dedup_by(|later, kept| {
        let same = later.order() == kept.order();
        if same && !later.endpoint.conditions.terminating {
            *kept = *later;
        }
        same
    });
    candidates
}

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) node: &'a str,
    pub(super) zone: Option<&'a str>,
}

/// Which lists a service port's policies use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uses {
    pub(super) cluster: bool,
    pub(super) local: bool,
}

/// The lists of a service port.
#[derive(Debug, Default)]
pub(super) struct Categories<'a> {
    /// For the policy Cluster; empty if not used.
    pub(super) cluster: Vec<Candidate<'a>>,
    /// For the policy Local; empty if not used.
    pub(super) local: Vec<Candidate<'a>>,
    /// Whether any endpoint in the cluster could be used by somebody.
    pub(super) any: bool,
}

/// Sorts endpoints into lists. Serving endpoints that terminate are used, for each list by itself,
/// where there is no ready one.
pub(super) fn categorize<'a>(
    candidates: &[Candidate<'a>],
    uses: Uses,
    place: Place<'_>,
) -> Categories<'a> {
    let mut categories = Categories {
        any: candidates.iter().any(|candidate| candidate.is_ready() || candidate.is_draining()),
        ..Categories::default()
    };
    if uses.cluster {
        let topology = Topology::of(candidates, place);
        categories.cluster = ready_or_draining(candidates.iter().filter(|candidate| {
            !candidate.is_ready() || topology.allows(candidate.endpoint, place)
        }));
    }
    if uses.local {
        categories.local =
            ready_or_draining(candidates.iter().filter(|candidate| is_local(candidate, place)));
    }
    categories
}

/// Whether an endpoint is on this node.
pub(super) fn is_local(candidate: &Candidate<'_>, place: Place<'_>) -> bool {
    candidate.endpoint.node.as_deref() == Some(place.node)
}

/// The ready ones, else those that still serve while they terminate.
fn ready_or_draining<'a: 'b, 'b>(
    candidates: impl Iterator<Item = &'b Candidate<'a>> + Clone,
) -> Vec<Candidate<'a>> {
    let ready: Vec<_> = candidates.clone().filter(|c| c.is_ready()).copied().collect();
    if ready.is_empty() { candidates.filter(|c| c.is_draining()).copied().collect() } else { ready }
}

/// Whether hints restrict the Cluster list.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Topology {
    Anywhere,
    SameZone,
    SameNode,
}

impl Topology {
    /// Hints count if every ready endpoint has them and one is for us.
    fn of(candidates: &[Candidate<'_>], place: Place<'_>) -> Self {
        let ready = || candidates.iter().filter(|c| c.is_ready()).map(|c| c.endpoint);
        let counts = |mode: Self, hinted: fn(&Endpoint) -> bool| {
            ready().all(hinted) && ready().any(|endpoint| mode.allows(endpoint, place))
        };
        if counts(Self::SameNode, |endpoint| !endpoint.for_nodes.is_empty()) {
            Self::SameNode
        } else if counts(Self::SameZone, |endpoint| !endpoint.for_zones.is_empty()) {
            Self::SameZone
        } else {
            Self::Anywhere
        }
    }

    fn allows(self, endpoint: &Endpoint, place: Place<'_>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::SameZone => endpoint.for_zones.iter().any(|zone| Some(&**zone) == place.zone),
            Self::SameNode => endpoint.for_nodes.iter().any(|node| &**node == place.node),
        }
    }
}

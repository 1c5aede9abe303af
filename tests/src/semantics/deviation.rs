//! Where we differ from kube-proxy on purpose.

/// One such place. The model follows kube-proxy but for those that a [`Proxy`](super::Proxy) is said
/// to have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Deviation {
    /// A pod of another node is a client from outside.
    RemotePodIsOutside,
    /// A host process is seen with the node's address by pods of the node too.
    HostKeepsItsAddress,
    /// A pod that gets itself sees its own address where the socket hooks choose.
    PodMeetsItself,
}

impl Deviation {
    /// All of ours.
    pub const ALL: [Self; 3] =
        [Self::RemotePodIsOutside, Self::HostKeepsItsAddress, Self::PodMeetsItself];

    /// What differs.
    pub const fn what(self) -> &'static str {
        match self {
            Self::RemotePodIsOutside => {
                "A pod of another node that reaches this node's frontends is a client from outside: \
                 the policy Local gives it local endpoints only, and a ClusterIP hides its address. \
                 kube-proxy with a cluster CIDR takes it for a pod of this node."
            }
            Self::HostKeepsItsAddress => {
                "Where tc translates for a process of the node, a pod of the same node sees the \
                 node's address; kube-proxy shows it the address of the pod's gateway. A process of \
                 the same node sees, where there are socket hooks too, the address that was dialled; \
                 kube-proxy shows it some address of the node."
            }
            Self::PodMeetsItself => {
                "Where the socket hooks choose, a pod that dials a Service and gets itself sees its \
                 own address; kube-proxy shows it the address of its gateway."
            }
        }
    }

    /// Why it is better so.
    pub const fn why(self) -> &'static str {
        match self {
            Self::RemotePodIsOutside => {
                "kube-proxy sends it to endpoints on any node and keeps its address, so the answer of \
                 an endpoint on a third node goes straight to the pod, which never dialled that: the \
                 connection fails. With the mode NodeCIDR kube-proxy does as we do."
            }
            Self::HostKeepsItsAddress => {
                "Both are the node to whoever sees them, and a packet whose source stays needs no \
                 port of its own. The kernel takes no packet from outside that carries one of its \
                 own addresses unless it is asked to, so the node needs another one to talk to itself."
            }
            Self::PodMeetsItself => {
                "The connection never leaves the pod, so there is no answer that another source must \
                 bring back to the node, and no packet to translate."
            }
        }
    }
}

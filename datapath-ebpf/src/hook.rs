//! The places where a packet meets our programs.

/// A tc hook, seen from the node.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// A packet comes out of a pod: ingress of the node's end of the pod's interface.
    FromPod,
    /// The node's own network delivers a packet to a pod: egress of the same device.
    ToPod,
    /// A packet arrives from outside.
    FromUplink,
    /// The node's own network sends a packet out.
    ToUplink,
}

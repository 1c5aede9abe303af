//! What happens to a packet or a socket call has a name.

/// Every way a packet or a socket call can leave our programs. The number is the index in
/// `COUNTERS` (per CPU, 64 bits each); it is part of the ABI, so new outcomes go to the end.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Left to the kernel's own network untouched.
    Passed = 0,
    /// Carried into a pod of this node.
    ToPod,
    /// Carried to another node.
    ToNode,
    /// A new flow was translated.
    FlowCreated,
    /// A packet of a known flow was translated.
    FlowTranslated,
    /// An ICMP error about a translated packet was translated.
    IcmpTranslated,
    /// The missing half of a flow was written again.
    FlowRestored,
    /// A flow was moved because its backend is gone.
    FlowMoved,
    /// A connection was given its backend at `connect`.
    SocketConnected,
    /// A datagram was given its backend at `sendmsg`.
    SocketSent,
    /// A connection was refused at `connect`: no usable endpoint, or an unserved port.
    SocketRefused,
    /// Rejected: the frontend has no usable endpoint.
    RejectedNoEndpoint,
    /// Rejected: the address is ours, the port is not served.
    RejectedNoPort,
    /// Dropped: the policy asks for a local endpoint, and all are elsewhere.
    DroppedNoLocalEndpoint,
    /// Dropped: the source is in none of the frontend's source ranges.
    DroppedSourceRange,
    /// Dropped: an unallocated address out of the range set aside for services.
    DroppedUnallocated,
    /// Dropped: a later fragment whose first fragment was never seen, or a fragment of a tunnel's packet.
    DroppedFragment,
    /// Dropped: headers that do not fit the packet.
    DroppedMalformed,
    /// Dropped: no source port was free.
    DroppedNoPort,
    /// Dropped: a flow could not be written.
    DroppedFlowTable,
    /// Dropped: the kernel refused to change the packet.
    DroppedRewrite,
    /// Dropped: no route to where the translated packet must go.
    DroppedNoRoute,
    /// Dropped: it came from the wire with an address of this node as its source.
    DroppedMartian,
    /// Answered with a reset: a segment of a connection with a pod of this node that is gone.
    ResetNoPod,
    /// Dropped: an address of this node's pods that no pod has.
    DroppedNoPod,
    /// Wrapped in an IP packet to another node.
    Wrapped,
    /// Unwrapped: it had come in an IP packet from another node.
    Unwrapped,
    /// Rejected: too big for the tunnel; its sender was told what fits.
    RejectedTooBig,
    /// Dropped: a wrapped packet from an address that is no node's.
    DroppedUnknownPeer,
    /// Dropped: a wrapped packet whose source is not on the node that sent it, nor passed on by it to a
    /// frontend with direct server return.
    DroppedSpoofed,
    /// Dropped: it met congestion in the tunnel, and its sender does not know the mark (RFC 6040).
    DroppedCongestion,
    /// A new flow of a pod leaves the cluster with the node's address.
    Masqueraded,
    /// Of those carried to another node: turned round at the uplink, before it became a packet.
    TurnedRound,
}

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Passed,
        Self::ToPod,
        Self::ToNode,
        Self::FlowCreated,
        Self::FlowTranslated,
        Self::IcmpTranslated,
        Self::FlowRestored,
        Self::FlowMoved,
        Self::SocketConnected,
        Self::SocketSent,
        Self::SocketRefused,
        Self::RejectedNoEndpoint,
        Self::RejectedNoPort,
        Self::DroppedNoLocalEndpoint,
        Self::DroppedSourceRange,
        Self::DroppedUnallocated,
        Self::DroppedFragment,
        Self::DroppedMalformed,
        Self::DroppedNoPort,
        Self::DroppedFlowTable,
        Self::DroppedRewrite,
        Self::DroppedNoRoute,
        Self::DroppedMartian,
        Self::ResetNoPod,
        Self::DroppedNoPod,
        Self::Wrapped,
        Self::Unwrapped,
        Self::RejectedTooBig,
        Self::DroppedUnknownPeer,
        Self::DroppedSpoofed,
        Self::DroppedCongestion,
        Self::Masqueraded,
        Self::TurnedRound,
    ];

    /// How many outcomes there are: the number of entries of `COUNTERS`.
    pub const COUNT: usize = Self::TurnedRound as usize + 1;

    /// The name in metrics and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::ToPod => "to_pod",
            Self::ToNode => "to_node",
            Self::FlowCreated => "flow_created",
            Self::FlowTranslated => "flow_translated",
            Self::IcmpTranslated => "icmp_translated",
            Self::FlowRestored => "flow_restored",
            Self::FlowMoved => "flow_moved",
            Self::SocketConnected => "socket_connected",
            Self::SocketSent => "socket_sent",
            Self::SocketRefused => "socket_refused",
            Self::RejectedNoEndpoint => "rejected_no_endpoint",
            Self::RejectedNoPort => "rejected_no_port",
            Self::DroppedNoLocalEndpoint => "dropped_no_local_endpoint",
            Self::DroppedSourceRange => "dropped_source_range",
            Self::DroppedUnallocated => "dropped_unallocated",
            Self::DroppedFragment => "dropped_fragment",
            Self::DroppedMalformed => "dropped_malformed",
            Self::DroppedNoPort => "dropped_no_port",
            Self::DroppedFlowTable => "dropped_flow_table",
            Self::DroppedRewrite => "dropped_rewrite",
            Self::DroppedNoRoute => "dropped_no_route",
            Self::DroppedMartian => "dropped_martian",
            Self::ResetNoPod => "reset_no_pod",
            Self::DroppedNoPod => "dropped_no_pod",
            Self::Wrapped => "wrapped",
            Self::Unwrapped => "unwrapped",
            Self::RejectedTooBig => "rejected_too_big",
            Self::DroppedUnknownPeer => "dropped_unknown_peer",
            Self::DroppedSpoofed => "dropped_spoofed",
            Self::DroppedCongestion => "dropped_congestion",
            Self::Masqueraded => "masqueraded",
            Self::TurnedRound => "turned_round",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_at_its_number() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.name());
        }
    }
}

//! What must come of a request.

use super::place::Endpoint;

/// What a request must come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// These backends answer, all and only, and see the client so.
    Reach(Vec<&'static str>, Seen),
    /// The client is told at once that nobody serves.
    Refused,
    /// Nothing comes back.
    Silence,
    /// Not what the expectation or check asks for.
    Otherwise,
}

/// Whom a backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The client itself; for a process of a node, an address of that node.
    Itself,
    /// The node that decided about the request.
    Node,
    /// The address that was dialled.
    Dialled,
}

/// The backends that answer, all and only, each seeing the client's own address.
pub fn reach(endpoints: &[Endpoint]) -> Want {
    Want::Reach(endpoints.iter().map(|endpoint| endpoint.pod).collect(), Seen::Itself)
}

/// The backends that answer, each seeing an address of the node that decided.
pub fn masked(endpoints: &[Endpoint]) -> Want {
    Want::Reach(endpoints.iter().map(|endpoint| endpoint.pod).collect(), Seen::Node)
}

/// The backends that answer, each seeing the address that the client has dialled.
pub fn mirrored(endpoints: &[Endpoint]) -> Want {
    Want::Reach(endpoints.iter().map(|endpoint| endpoint.pod).collect(), Seen::Dialled)
}

/// See [`Want::Refused`].
pub const fn refused() -> Want {
    Want::Refused
}

/// See [`Want::Silence`].
pub const fn silence() -> Want {
    Want::Silence
}

/// See [`Want::Otherwise`].
pub const fn otherwise() -> Want {
    Want::Otherwise
}

impl std::fmt::Display for Want {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reach(pods, seen) => {
                let seen = match seen {
                    Seen::Itself => "the client",
                    Seen::Node => "the node",
                    Seen::Dialled => "the dialled address",
                };
                write!(f, "{}, seeing {seen}", pods.join(" or "))
            }
            Self::Refused => f.write_str("refused"),
            Self::Silence => f.write_str("silence"),
            Self::Otherwise => f.write_str("not so"),
        }
    }
}

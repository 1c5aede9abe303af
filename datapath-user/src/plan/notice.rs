//! What the operator should know about Services and pods that cannot have all that they ask for.

use super::Owner;
use datapath_common::FrontendKey;
use std::fmt;

/// One thing about one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The object.
    pub owner: Owner,
    /// What about it.
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// An address and port that another object has, which comes first.
    Claimed {
        /// The frontend.
        key: FrontendKey,
        /// Who has it.
        holder: Owner,
    },
    /// A node port among the source ports of masqueraded flows.
    MasqueradePort(u16),
}

impl Problem {
    /// In one word, as Events have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "AddressInUse",
            Self::MasqueradePort(_) => "NodePortInMasqueradeRange",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claimed { key, holder } => {
                let (addr, port, protocol) = (key.addr, key.port.host(), key.protocol);
                write!(
                    f,
                    "{protocol:?} port {port} of {addr} belongs to {holder}: a Service comes \
                     before a host port, the older before the younger"
                )
            }
            Self::MasqueradePort(port) => write!(
                f,
                "the node port {port} is one of the source ports that nodes use for masqueraded \
                 connections (--masquerade-ports): choose another range there"
            ),
        }
    }
}

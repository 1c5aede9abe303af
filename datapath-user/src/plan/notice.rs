//! What the operator should know about Services and pods that cannot have all that they ask for.

use super::Owner;
use datapath_common::{Be16, FrontendKey, Protocol};
use std::{collections::BTreeSet, fmt, net::IpAddr};

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
    /// A port that another object has, which comes first.
    Claimed {
        /// Of these addresses.
        addresses: BTreeSet<IpAddr>,
        /// The port.
        port: Be16,
        /// Over this protocol.
        protocol: Protocol,
        /// Who has it.
        holder: Owner,
    },
    /// A node port among the source ports of masqueraded flows.
    MasqueradePort(u16),
}

impl Notice {
    /// `owner` goes without a frontend that `holder` has.
    pub(super) fn claimed(owner: Owner, key: FrontendKey, holder: Owner) -> Self {
        let FrontendKey { addr, port, protocol, .. } = key;
        let addresses = [addr.ip()].into();
        Self { owner, problem: Problem::Claimed { addresses, port, protocol, holder } }
    }

    /// Makes one notice of those about one port of several addresses, which is what a host port is.
    pub(super) fn merge(notices: Vec<Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::with_capacity(notices.len());
        for mut notice in notices {
            let owner = notice.owner.clone();
            let same = |old: &&mut Self| old.owner == owner;
            if !merged.iter_mut().filter(same).any(|old| old.problem.absorb(&mut notice.problem)) {
                merged.push(notice);
            }
        }
        merged
    }
}

impl Problem {
    /// Takes over the addresses of another problem that is the same but for them; whether it is.
    fn absorb(&mut self, other: &mut Self) -> bool {
        match (self, other) {
            (
                Self::Claimed { addresses, port, protocol, holder },
                Self::Claimed {
                    addresses: more,
                    port: port2,
                    protocol: protocol2,
                    holder: holder2,
                },
            ) if (*port, *protocol, &*holder) == (*port2, *protocol2, &*holder2) => {
                addresses.append(more);
                true
            }
            (one, other) => one == other,
        }
    }

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
            Self::Claimed { addresses, port, protocol, holder } => {
                let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
                write!(
                    f,
                    "{protocol:?} port {port:?} of {} belongs to {holder}: a Service comes before a \
                     host port, the older before the younger",
                    addresses.join(", ")
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

//! The conformance table: every behaviour of the reference as a row, run against ours and against the
//! real kube-proxy in the same lab.
//!
//! A [row](case) says what is in the cluster, what is asked and what must come of it, in the words of
//! [`place`]. What ours does must be what kube-proxy does in nftables mode; where any of the
//! columns is otherwise, the row says so with the reason, and that is checked as strictly as the rest.
//! Rows run side by side, each with Services of its own, so that a run takes little longer than its
//! slowest rows.

pub mod case;
pub mod cases;
mod disturb;
pub mod place;
mod probe;
pub mod report;
mod run;
mod slices;
pub mod trial;
mod want;
pub mod world;

use crate::proxy::Kind;
use anyhow::{Error, bail};
use std::{fmt, str::FromStr};

pub use run::{Outcome, run};

/// A proxy that the table is run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    /// Ours.
    Ours,
    /// Ours without the socket hooks.
    OursTc,
    /// Ours with XDP on the uplinks.
    OursXdp,
    /// kube-proxy in nftables mode: the contract.
    Nftables,
    /// kube-proxy in iptables mode.
    Iptables,
}

/// All of ours.
pub const OURS: &[Column] = &[Column::Ours, Column::OursTc, Column::OursXdp];
/// Ours with socket hooks.
pub const SOCKETS: &[Column] = &[Column::Ours, Column::OursXdp];
/// Why a node's own SCTP process does not reach its own NodePort with [`SOCKETS`].
pub(crate) const NO_SCTP_HOOK: &str = "SCTP sockets have no hooks, and packets of a node to itself are \
                                       left alone where hooks do the rest (--socket-lb=off serves them)";
/// Ours by tc alone.
pub const OURS_TC: &[Column] = &[Column::OursTc];
/// kube-proxy in both modes.
pub const KUBE_PROXY: &[Column] = &[Column::Nftables, Column::Iptables];
/// kube-proxy in nftables mode.
pub const NFTABLES: &[Column] = &[Column::Nftables];
/// kube-proxy in iptables mode.
pub const IPTABLES: &[Column] = &[Column::Iptables];

impl Column {
    /// All, in the order of the table.
    pub const ALL: [Self; 5] =
        [Self::Ours, Self::OursTc, Self::OursXdp, Self::Nftables, Self::Iptables];

    /// What all are called.
    pub fn names() -> Vec<String> {
        Self::ALL.iter().map(ToString::to_string).collect()
    }

    /// Which proxy it is.
    pub fn kind(self) -> Kind {
        match self {
            Self::Ours => Kind::datapath(true, "native"),
            Self::OursTc => Kind::datapath(false, "native"),
            Self::OursXdp => Kind::Datapath { socket_lb: true, routing: "native", xdp: "generic" },
            Self::Nftables => Kind::KubeProxy("nftables"),
            Self::Iptables => Kind::KubeProxy("iptables"),
        }
    }

    /// What it is, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ours => "ours with socket hooks",
            Self::OursTc => "ours by tc alone",
            Self::OursXdp => "ours with XDP on the uplinks",
            Self::Nftables => "the real kube-proxy in nftables mode",
            Self::Iptables => "the real kube-proxy in iptables mode",
        }
    }

    /// Whether it is ours.
    pub fn is_ours(self) -> bool {
        self.kind().is_datapath()
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::OursTc => "ours-tc",
            Self::OursXdp => "ours-xdp",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

impl FromStr for Column {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match Self::ALL.into_iter().find(|column| column.to_string() == text) {
            Some(column) => Ok(column),
            None => bail!("{text:?} is not one of {}", Self::names().join(", ")),
        }
    }
}

//! Tables for people, JSON for programs: the live state of the node, read from the pinned maps.

use crate::datapath::Error;
use std::{io::Write, path::PathBuf};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Where to read, and how to print.
#[derive(Clone, Debug)]
pub struct Show {
    /// Folder of the pins, as given to the agent.
    pub bpffs: PathBuf,
    /// How to print.
    pub format: Format,
}

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] Error),
    /// Printing.
    #[error("writing the output: {0}")]
    Output(#[from] std::io::Error),
    /// No service of that name.
    #[error("no service {0}; see `datapath service list`")]
    NoService(String),
}

/// Which flows to list.
#[derive(Clone, Debug, Default)]
pub struct FlowFilter {
    /// Only flows of this service (`NS/NAME`).
    pub service: Option<String>,
    /// Only flows with this address on any side.
    pub address: Option<std::net::IpAddr>,
    /// At most this many; 0 for all.
    pub limit: usize,
}

#[expect(unused_variables, reason = "signatures first")]
impl Show {
    /// `datapath status`.
    pub fn status(&self, out: &mut impl Write) -> Result<(), ShowError> {
        todo!()
    }

    /// `datapath service list`.
    pub fn service_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        todo!()
    }

    /// `datapath service show NS/NAME`.
    pub fn service_show(&self, name: &str, out: &mut impl Write) -> Result<(), ShowError> {
        todo!()
    }

    /// `datapath flow list`.
    pub fn flow_list(&self, filter: &FlowFilter, out: &mut impl Write) -> Result<(), ShowError> {
        todo!()
    }

    /// `datapath route list`.
    pub fn route_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        todo!()
    }

    /// `datapath map list`.
    pub fn map_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        todo!()
    }
}

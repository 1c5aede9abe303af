//! Tables for people, JSON for programs: the live state of the node, read from the pinned maps, so
//! that it is there while no agent runs.

mod flows;
mod nodes;
mod routes;
mod services;
mod status;
mod table;
mod workloads;

use crate::{
    datapath::{Error, Reader},
    roster::Roster,
};
use serde::Serialize;
use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
};

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
    /// Folder of the agent's state, where names are.
    pub state_dir: PathBuf,
    /// How to print.
    pub format: Format,
}

/// Which flows to list.
#[derive(Clone, Debug, Default)]
pub struct FlowFilter {
    /// Only flows of this service (`NS/NAME`).
    pub service: Option<String>,
    /// Only flows with this address on any side.
    pub address: Option<IpAddr>,
    /// At most this many, the latest first; 0 for all.
    pub limit: usize,
}

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] Error),
    /// Printing.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    /// No service of that name.
    #[error("no service {0}; see `datapath service list`")]
    NoService(String),
}

impl Show {
    /// `datapath status`: what is attached, how much there is, what happened to packets.
    pub fn status(&self, out: &mut impl Write) -> Result<(), ShowError> {
        let status = status::read(&self.reader()?, &self.bpffs)?;
        self.print(&status, status::render, out)
    }

    /// `datapath service list`: one row per port of each service.
    pub fn service_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        let services = services::read(&self.reader()?)?;
        self.print(&services, |services| services::render(services), out)
    }

    /// `datapath service show NS/NAME`: all ports, frontends and backends of a service.
    pub fn service_show(&self, name: &str, out: &mut impl Write) -> Result<(), ShowError> {
        let mut services = services::read(&self.reader()?)?;
        services.retain(|service| service.is_called(name));
        if services.is_empty() {
            return Err(ShowError::NoService(name.to_owned()));
        }
        self.print(&services, |services| services::render_details(services), out)
    }

    /// `datapath flow list`: translated flows, the latest first.
    pub fn flow_list(&self, filter: &FlowFilter, out: &mut impl Write) -> Result<(), ShowError> {
        let flows = flows::read(&self.reader()?, filter)?;
        self.print(&flows, |flows| flows::render(flows), out)
    }

    /// `datapath route list`: pods and addresses of this node, ranges of others.
    pub fn route_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        let routes = routes::read(&self.reader()?, &self.roster())?;
        self.print(&routes, |routes| routes::render(routes), out)
    }

    /// `datapath workload list`: pods of this node and their interfaces.
    pub fn workload_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        let workloads = workloads::read(&self.reader()?, &self.roster())?;
        self.print(&workloads, |workloads| workloads::render(workloads), out)
    }

    /// `datapath node list`: how the pods of each node are reached, and whether it answers.
    pub fn node_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        let nodes = nodes::read(&self.reader()?, &self.roster())?;
        self.print(&nodes, |nodes| nodes::render(nodes), out)
    }

    /// `datapath map list`: type, entries, size, fill and memory of each map.
    pub fn map_list(&self, out: &mut impl Write) -> Result<(), ShowError> {
        let maps = status::read_maps(&self.reader()?)?;
        self.print(&maps, |maps| status::render_maps(maps), out)
    }

    fn roster(&self) -> Roster {
        Roster::read(&self.state_dir)
    }

    fn reader(&self) -> Result<Reader, Error> {
        Reader::open(&self.bpffs)
    }

    fn print<T: Serialize>(
        &self,
        value: &T,
        render: impl Fn(&T) -> String,
        out: &mut impl Write,
    ) -> Result<(), ShowError> {
        match self.format {
            Format::Table => writeln!(out, "{}", render(value).trim_end())?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

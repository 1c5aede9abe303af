//! What the commands that show the node's state are told.

use super::{BpffsArgs, STATE_DIR};
use crate::show::{FlowFilter, Format, Show};
use clap::{Args, Subcommand, ValueEnum};
use std::{net::IpAddr, path::PathBuf};

/// `datapath service ...`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// All Services, with their traffic.
    List(ShowArgs),
    /// One Service, with its frontends and backends.
    Show {
        /// Namespace and name.
        #[arg(value_name = "NS/NAME")]
        name: String,
        /// How to print.
        #[command(flatten)]
        show: ShowArgs,
    },
}

/// `datapath flow ...`.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Flows, the last used first.
    List {
        /// Only flows of this Service.
        #[arg(long, value_name = "NS/NAME")]
        service: Option<String>,
        /// Only flows with this address on any side.
        #[arg(long)]
        address: Option<IpAddr>,
        /// At most so many; 0 for all.
        #[arg(long, default_value_t = 0)]
        limit: usize,
        /// How to print.
        #[command(flatten)]
        show: ShowArgs,
    },
}

/// `datapath route ...`, `datapath map ...`, `datapath workload ...` and `datapath node ...`.
#[derive(Debug, Subcommand)]
pub enum ListCommand {
    /// All of them.
    List(ShowArgs),
}

/// Where to read and how to print.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,
    /// Where the agent wrote names down.
    #[arg(long, value_name = "DIR", env = "DATAPATH_STATE_DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Tables for people, JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl ShowArgs {
    /// In the reader's own terms.
    pub fn show(&self) -> Show {
        let format = match self.output {
            Output::Table => Format::Table,
            Output::Json => Format::Json,
        };
        let (bpffs, state_dir) = (self.bpffs.bpffs.clone(), self.state_dir.clone());
        Show { bpffs, state_dir, format }
    }
}

impl FlowCommand {
    /// Which flows, and how to print them.
    pub fn filter(self) -> (FlowFilter, Show) {
        let Self::List { service, address, limit, show } = self;
        (FlowFilter { service, address, limit }, show.show())
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

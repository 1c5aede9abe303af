//! Values of flags.

use clap::ValueEnum;
use std::{net::SocketAddr, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// How to print logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindAddress(pub(super) Option<SocketAddr>);

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|error| format!("{error}: give ADDRESS:PORT"))?;
        Ok(Self(Some(address)))
    }
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (0 < first && first <= last).then_some(Self { first, last })
        };
        read().ok_or_else(|| "not of the form FIRST-LAST".to_owned())
    }
}

//! What the load is told, and what it tells.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

/// Where [`Order::Serve`] answers requests, TCP and UDP.
pub const PORT: u16 = 9000;
/// Where it takes streams.
pub const SINK: u16 = 9001;

/// Where it lets datagrams come and never answers.
pub const DRAIN: u16 = 9002;

/// Over a kept connection: answer, and wait for the next request.
pub const REQUEST: u8 = b'r';
/// Answer, and close.
pub const LAST_REQUEST: u8 = b'c';

/// One line of standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Answer on [`PORT`] and [`SINK`], from now to the end.
    Serve,
    /// Send.
    Work(Work),
    /// Try to connect until that succeeds, or until it fails.
    Await {
        /// Whom to ask.
        to: SocketAddr,
        /// What to wait for.
        open: bool,
        /// For how long.
        patience: Duration,
    },
}

/// What to send, and how long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Work {
    /// What to send.
    pub kind: Kind,
    /// Where to.
    pub to: SocketAddr,
    /// How long; a tenth before that is to warm up, and does not count.
    pub millis: u64,
}

/// Ways to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Requests over one connection, one after the other.
    TcpRequests,
    /// Datagrams there and back, one after the other.
    UdpRequests,
    /// A connection for each request, which the server closes.
    TcpConnections,
    /// Connections without a request: from `connect` to its return.
    Handshakes,
    /// Requests over one connection at fixed times. What one that is late does to those after it
    /// is part of their latency (no coordinated omission).
    TcpRequestsAt {
        /// Requests a second.
        rate: u32,
    },
    /// Connections for one request each, at fixed times.
    TcpConnectionsAt {
        /// Connections a second.
        rate: u32,
    },
    /// Datagrams to [`DRAIN`], as fast as they go. One CPU carries each all the way before the next
    /// is sent.
    Flood,
    /// Frames of such datagrams, which arrive at the node that the load is on.
    Frames,
    /// As much as goes, over this many connections to [`SINK`].
    Streams(u8),
}

/// One line of standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// [`Order::Serve`] and [`Order::Await`].
    Done,
    /// [`Order::Work`].
    Report(Report),
    /// Why it could not be done.
    Failed(String),
}

impl Answer {
    /// That it is done; an error otherwise.
    pub fn done(self) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Failed(why) => bail!(why),
            Self::Report(_) => bail!("a report that nobody asked for"),
        }
    }

    /// The report; an error if there is none.
    pub fn report(self) -> Result<Report> {
        match self {
            Self::Report(report) => Ok(report),
            Self::Failed(why) => bail!(why),
            Self::Done => bail!("no report"),
        }
    }
}

/// What came of some work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// How long it took, without the warm-up.
    pub nanos: u64,
    /// Requests that were answered; of a flood, datagrams that were sent, and of frames
    /// those that were sent on.
    pub requests: u64,
    /// Requests that were not.
    pub failures: u64,
    /// Why the last one was not.
    pub failure: Option<String>,
    /// Bytes that arrived, of streams.
    pub bytes: u64,
    /// Latencies in nanoseconds, rounded to three digits, and how often each.
    pub latencies: Vec<(u64, u64)>,
}

//! What the lab says to the process that lives in each of its namespaces, one JSON value a line.
//!
//! The lab writes [`Call`]s to the process's standard input and reads [`Reply`]s from its standard
//! output. Calls run side by side; a reply carries the number of its call.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::SocketAddr};

/// A numbered operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the caller, repeated in the [`Reply`].
    pub id: u64,
    /// What to do.
    pub op: Op,
}

/// The outcome of the [`Call`] with the same number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Number of the call; 0 is the greeting that follows start-up.
    pub id: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Transport protocol of a probe or of a listening server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Proto {
    /// TCP, always spoken as HTTP.
    Tcp,
    /// UDP: one datagram out, one back.
    Udp,
    /// SCTP by raw packets: an INIT out, an INIT ACK back.
    Sctp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// An operation inside a namespace.
#[derive(Debug, Serialize, Deserialize)]
pub enum Op {
    /// Listen and answer on these addresses until [`Op::Unserve`].
    Serve(Vec<(Proto, SocketAddr)>),
    /// Close every listening socket; connections that are open stay.
    Unserve,
    /// Write these files below `/proc/sys` (path with slashes, value).
    Sysctl(Vec<(String, String)>),
    /// One request on a new socket.
    Ask(Ask),
    /// The same request many times, each on a new socket; answers are counted.
    Spread {
        /// The request.
        ask: Ask,
        /// How often.
        times: u32,
    },
    /// Open a TCP connection or UDP socket and keep it.
    Open(Ask),
    /// Ask over the kept socket.
    Again {
        /// What [`Op::Open`] returned.
        handle: u64,
        /// HTTP path or datagram.
        query: String,
        /// Time to wait for the answer.
        timeout_ms: u64,
    },
    /// Close the kept socket.
    Close(u64),
    /// Send requests at a steady rate, each on a new socket, until [`Op::LoadStop`].
    LoadStart {
        /// The request.
        ask: Ask,
        /// Requests a second.
        rate: u32,
        /// Threads that share the rate.
        threads: u32,
    },
    /// End the load and report.
    LoadStop(u64),
    /// Read a long answer and compare every byte with what it must be.
    Transfer {
        /// Server.
        to: SocketAddr,
        /// Length.
        bytes: u64,
        /// Time over which the server spreads it.
        millis: u64,
    },
}

/// A request to a server of the lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Transport.
    pub proto: Proto,
    /// Where to.
    pub to: SocketAddr,
    /// HTTP path, or the datagram.
    pub query: String,
    /// Source port, 0 for any.
    pub source_port: u16,
    /// Whether a UDP socket is connected before it sends.
    pub connected: bool,
    /// Time for connecting and answering together.
    pub timeout_ms: u64,
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, nothing to tell.
    Done,
    /// The result of [`Op::Ask`], [`Op::Again`] or [`Op::Transfer`].
    Verdict(Verdict),
    /// How often each verdict came.
    Counts(Vec<(Verdict, u32)>),
    /// A kept socket or a running load.
    Handle(u64),
    /// The report of a load.
    Load(LoadReport),
    /// The operation itself failed.
    Failed(String),
}

/// What a client learns from one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// The answer (HTTP body of a 200, or datagram).
    Answer(String),
    /// An HTTP answer that is not 200.
    Status(u16, String),
    /// ECONNREFUSED: a reset or an ICMP port unreachable came back.
    Refused,
    /// Nothing came back in time.
    Timeout,
    /// Another error of the socket call.
    Errno(i32),
    /// An answer that is wrong in itself: cut short, or from an address that was not asked.
    Broken(String),
}

impl Verdict {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&str> {
        match self {
            Self::Answer(text) => Some(text),
            Self::Status(..) | Self::Refused | Self::Timeout | Self::Errno(_) | Self::Broken(_) => {
                None
            }
        }
    }

    /// Whether the client was told at once that nobody serves there. Netfilter tells a process of
    /// the node itself with EPERM where a reset or an ICMP error gives ECONNREFUSED.
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::Refused | Self::Errno(libc::EPERM))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(text) => write!(f, "answer {text:?}"),
            Self::Status(code, body) => write!(f, "HTTP {code} {body:?}"),
            Self::Refused => f.write_str("refused"),
            Self::Timeout => f.write_str("timeout"),
            Self::Errno(errno) => {
                write!(f, "error {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}

/// What a load saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests made.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Everything else, by what it was.
    pub failures: BTreeMap<String, u64>,
    /// When requests that failed were made, in milliseconds from the start.
    pub failed_at: Vec<u64>,
    /// The slowest answer, in microseconds.
    pub slowest_us: u64,
    /// Time that the load ran, in milliseconds.
    pub millis: u64,
}

/// The byte at `offset` of a long answer: differs from its neighbours and from block to block, so
/// that lost, doubled and swapped pieces all show.
pub fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8).wrapping_mul(17) ^ (offset >> 16)) as u8
}

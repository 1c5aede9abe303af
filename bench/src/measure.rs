//! What is measured.

use crate::{
    cluster::{Client, Server, Variant, Way},
    load::order::{DRAIN, Kind, PORT, SINK, Work},
};
use serde::Serialize;
use std::net::SocketAddr;

/// Something that every variant is measured by.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Its name in `report.json`.
    pub id: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// What is sent.
    pub kind: Kind,
    /// Who sends.
    pub client: Client,
    /// Whose address is dialled.
    pub way: Way,
    /// Where the server is.
    pub server: Server,
}

/// What the figures of a measure are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds of a request, less is better.
    Nanoseconds,
    /// Bytes a second, more is better.
    BytesPerSecond,
}

/// Requests a second of the open loop: about a third of what one CPU does.
const REQUEST_RATE: u32 = 10_000;
/// Connections a second of the open loop.
const CONNECTION_RATE: u32 = 2_000;

const fn from_pod(id: &'static str, title: &'static str, kind: Kind, server: Server) -> Measure {
    Measure { id, title, kind, client: Client::Pod, way: Way::ClusterIp, server }
}

const fn from_outside(
    id: &'static str,
    title: &'static str,
    kind: Kind,
    server: Server,
) -> Measure {
    Measure { id, title, kind, client: Client::Outside, way: Way::NodePort, server }
}

/// All of them.
pub const MEASURES: &[Measure] = &[
    from_pod("rr-near", "request, same node", Kind::TcpRequests, Server::Near),
    from_pod("rr-far", "request, other node", Kind::TcpRequests, Server::Far),
    from_pod("udp-far", "datagram, other node", Kind::UdpRequests, Server::Far),
    from_pod("crr-near", "connection, same node", Kind::TcpConnections, Server::Near),
    from_pod("crr-far", "connection, other node", Kind::TcpConnections, Server::Far),
    from_pod(
        "rr-far-open",
        "request at 10,000/s, other node",
        Kind::TcpRequestsAt { rate: REQUEST_RATE },
        Server::Far,
    ),
    from_pod(
        "crr-far-open",
        "connection at 2,000/s, other node",
        Kind::TcpConnectionsAt { rate: CONNECTION_RATE },
        Server::Far,
    ),
    from_pod("stream-far", "stream, other node", Kind::Streams(1), Server::Far),
    from_pod("streams-far", "8 streams, other node", Kind::Streams(8), Server::Far),
    Measure {
        id: "bystander-crr-far",
        title: "connection to a pod, other node",
        kind: Kind::TcpConnections,
        client: Client::Pod,
        way: Way::Pod,
        server: Server::Far,
    },
    from_outside(
        "nodeport-rr-near",
        "NodePort request, pod there",
        Kind::TcpRequests,
        Server::Near,
    ),
    from_outside(
        "nodeport-rr-far",
        "NodePort request, pod elsewhere",
        Kind::TcpRequests,
        Server::Far,
    ),
    from_outside(
        "nodeport-crr-far",
        "NodePort connection, pod elsewhere",
        Kind::TcpConnections,
        Server::Far,
    ),
    from_outside(
        "nodeport-flood-far",
        "NodePort datagrams one way, pod elsewhere",
        Kind::Flood,
        Server::Far,
    ),
    Measure {
        id: "nodeport-frames-far",
        title: "NodePort frames through one node",
        kind: Kind::Frames,
        client: Client::Wire,
        way: Way::NodePort,
        server: Server::Far,
    },
];

impl Measure {
    /// Whether a variant can be measured by it.
    pub fn applies_to(&self, variant: Variant) -> bool {
        match variant {
            Variant::Direct => self.way != Way::NodePort,
            // What they cost shows between nodes.
            Variant::Tunnel => {
                let kind = matches!(self.kind, Kind::TcpRequests | Kind::Streams(1));
                kind && self.way == Way::ClusterIp && self.server == Server::Far
            }
            // The lab's links leave lying what a driver sends back, see `--xdp=auto` in docs/configuration.md.
            Variant::Xdp("native") => self.client == Client::Wire,
            Variant::Xdp(_) => self.way == Way::NodePort && self.server == Server::Far,
            Variant::KubeProxy(_) | Variant::Ours { .. } => true,
        }
    }

    /// The port that it dials.
    pub const fn port(&self) -> u16 {
        match self.kind {
            Kind::Streams(_) => SINK,
            Kind::Flood | Kind::Frames => DRAIN,
            _ => PORT,
        }
    }

    /// The unit of its figures.
    pub const fn unit(&self) -> Unit {
        match self.kind {
            Kind::Streams(_) => Unit::BytesPerSecond,
            _ => Unit::Nanoseconds,
        }
    }

    /// The work of one round.
    pub const fn work(&self, to: SocketAddr, millis: u64) -> Work {
        Work { kind: self.kind, to, millis }
    }
}

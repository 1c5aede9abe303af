//! Pods of this node.

use super::{ObjectName, Protocol};
use std::{net::IpAddr, num::NonZeroU16, sync::Arc};

/// A port of the node that leads to a port of a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// `hostIP`: the only address that it is served on; a wildcard address stands for all of its
    /// family, `None` for all.
    pub address: Option<IpAddr>,
    /// The port of the node.
    pub port: NonZeroU16,
    /// The port of the pod.
    pub container_port: NonZeroU16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A Pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// The node that it is bound to.
    pub node: Option<Arc<str>>,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Its addresses, at most one per family; none before it has been set up.
    pub addresses: Box<[IpAddr]>,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Host ports of its containers and sidecars; none if it shares the node's network.
    pub host_ports: Box<[HostPort]>,
    /// Whether it has run to its end: nothing of it runs any more.
    pub ended: bool,
    /// Whether it is being deleted; it may still be finishing its work.
    pub deleting: bool,
}

impl Pod {
    /// A running pod of which only the name is known.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            node: None,
            created: 0,
            addresses: Box::default(),
            host_network: false,
            host_ports: Box::default(),
            ended: false,
            deleting: false,
        }
    }
}

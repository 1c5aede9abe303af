//! Health check servers.

use crate::model::{Family, ObjectName};
use std::{net::IpAddr, num::NonZeroU16};

/// A health check server that a Service asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// The family that it is about.
    pub family: Family,
    /// The addresses to listen on: those of node ports.
    pub addresses: Vec<IpAddr>,
    /// The port to listen on.
    pub port: NonZeroU16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

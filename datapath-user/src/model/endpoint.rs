//! EndpointSlices.

use super::{ObjectName, Protocol};
use std::{net::IpAddr, num::NonZeroU16, sync::Arc, time::SystemTime};

/// What a slice says about the state of an endpoint, defaults filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conditions {
    /// Takes new connections.
    pub ready: bool,
    /// Answers, whether or not it is terminating.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { ready: true, serving: true, terminating: false }
    }
}

/// One entry of `endpoints`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The first of its addresses, which are documented to be interchangeable.
    pub address: IpAddr,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// Its state.
    pub conditions: Conditions,
    /// `hints.forZones`.
    pub for_zones: Box<[Arc<str>]>,
    /// `hints.forNodes`.
    pub for_nodes: Box<[Arc<str>]>,
}

impl Endpoint {
    /// A ready endpoint on no particular node.
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            node: None,
            conditions: Conditions::default(),
            for_zones: Box::default(),
            for_nodes: Box::default(),
        }
    }
}

/// One entry of `ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// The Service port that it serves.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of every endpoint of the slice.
    pub port: NonZeroU16,
}

/// An EndpointSlice of addresses (not of names).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Its name.
    pub name: ObjectName,
    /// The Service that it belongs to (label `kubernetes.io/service-name`).
    pub service: ObjectName,
    /// The ports.
    pub ports: Box<[SlicePort]>,
    /// The endpoints; all of one family.
    pub endpoints: Box<[Endpoint]>,
    /// When what led to its last change happened (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`).
    pub trigger_time: Option<SystemTime>,
}

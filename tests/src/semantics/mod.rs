//! What a Service means: a reference model that judges proxies.
//!
//! Written from the documented behaviour of kube-proxy's nftables mode (Kubernetes 1.36), not from
//! any proxy's data structures: no map, no list that lives on, no change. From the objects of a
//! cluster and one packet it derives the verdict anew, by reading all of them. Slow, and short
//! enough to be checked by reading.
//!
//! [`facts`] are the objects, as plain data that Kubernetes' own JSON is made from; [`judge`] says
//! what a node's proxy does with a packet; [`journey`] follows a packet over several nodes;
//! [`history`] makes random clusters. [`Deviation`] names where we differ from kube-proxy on purpose.

mod deviation;
mod endpoints;
pub mod facts;
pub mod history;
mod journey;
mod json;
mod judge;
pub mod run;
#[cfg(test)]
mod tests;

pub use deviation::Deviation;
pub use journey::{Journey, journey};
pub use judge::{Client, Detector, NodePorts, Packet, Proxy, Source, Verdict};

//! The lab: a Kubernetes cluster made of network namespaces on one machine.
//!
//! Every node and pod of a reference cluster is a network namespace, wired as a real
//! cluster of that shape is; every node has its own cgroup and bpffs. The control plane is the real
//! one; Nodes and Pods are objects that the lab registers. Either our agent or the real kube-proxy
//! runs on the nodes. [`Lab::builder`] is where to start.

pub mod api;
pub mod cli;
pub mod cni;
pub mod conformance;
pub mod control;
pub mod host;
pub mod keeper;
mod lab;
pub mod manifest;
pub mod pod;
pub mod proto;
pub mod proxy;
pub mod renew;
pub mod semantics;
pub mod service;
pub mod source;
pub mod space;
pub mod state;
pub mod suite;
pub mod topology;
pub mod tour;
mod wire;

pub use lab::{Builder, Lab, Node, Pod};

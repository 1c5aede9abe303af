//! What this node's maps should hold, and the difference to what they hold. Pure.
//!
//! The rules are those of kube-proxy's nftables mode (Kubernetes 1.36, `pkg/proxy`). A Service goes
//! through three steps: its endpoints are joined and sorted into the lists that its policies use
//! ([`endpoints`]), which with its addresses make a plan without numbers ([`compile`]), which is
//! compared with the plan before and given ids that live as long as what they name ([`Planner`]).
//! A pod with host ports ([`host_ports`]) goes the same way.

mod addresses;
mod claims;
mod cni;
mod compile;
mod detector;
mod endpoints;
mod health;
mod host_ports;
mod ids;
mod maglev;
mod masquerade;
mod network;
mod node_ports;
mod notice;
mod owner;
mod planner;
mod routing;
mod service;
mod settings;
mod tables;

#[cfg(test)]
mod dsr;
#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;

pub use addresses::prefixes;
pub use cni::PodNetwork;
pub use detector::LocalDetector;
pub use health::HealthCheck;
pub use network::{Network, PodAddress, PodDevice, Uplink};
pub use node_ports::NodePortAddresses;
pub use notice::{Notice, Problem};
pub use owner::Owner;
pub use planner::{NoLocalEndpoints, Planner};
pub use routing::{Hop, KernelRoutes};
pub use settings::{MasqueradeOutside, Routing, Settings};
pub use tables::{Change, Keys, Tables};

//! What the cluster says, in plain types. Pure: no Kubernetes types, no kernel, no clock.
//!
//! ```text
//! [Slice] --service name--> [Service] --port name--> endpoints of a service port
//! [Node]  --own name------> zone, addresses, podCIDRs
//! [Pod]   --own node------> addresses, host ports
//! ```
//!
//! [`Model`] holds it and remembers which Services a change may concern.

mod endpoint;
mod index;
mod name;
mod node;
mod pod;
mod service;

pub use endpoint::{Conditions, Endpoint, Slice, SlicePort};
pub use index::{Dirty, Event, Kind, Model};
pub use name::ObjectName;
pub use node::{Family, Node, ServiceCidr};
pub use pod::{HostPort, Pod};
pub use service::{
    Algorithm, Forwarding, Protocol, Service, ServicePort, ServiceType, TrafficPolicy,
};

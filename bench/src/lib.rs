//! The benchmark: what a request costs through our programs, through the real kube-proxy and
//! through bare routing, measured side by side.
//!
//! Each [variant](cluster::Variant) has a whole cluster of the lab to itself; all are up at once.
//! [Measures](measure) go round: a fraction of a second here, then the same there, again and again,
//! so that whatever the machine does meets all alike. What is compared are ratios within a
//! [round](round), and [`stats`] says how sure they are. A cluster that is there [already](existing) is
//! measured against itself: its Services against its pods' addresses.

pub mod cluster;
pub mod existing;
pub mod load;
pub mod machine;
pub mod measure;
pub mod objects;
pub mod process;
pub mod programming;
pub mod report;
pub mod round;
pub mod run;
pub mod scale;
pub mod stats;
pub mod target;
pub mod usage;

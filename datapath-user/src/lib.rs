//! The `datapath` agent and command line.
//!
//! Arrows point one way: [`k8s`] → [`model`] → [`plan`] → [`datapath`]. The [`agent`] joins them,
//! [`health`] tells how it fares, [`show`] reads the node's state for people.

pub mod agent;
pub mod args;
pub mod datapath;
pub mod health;
pub mod k8s;
pub mod model;
pub mod plan;
pub mod show;

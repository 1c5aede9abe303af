//! The `datapath` agent and command line.
//!
//! Arrows point one way: [`k8s`] → [`model`] → [`plan`] → [`datapath`].

pub mod datapath;
pub mod k8s;
pub mod model;
pub mod plan;
pub mod show;

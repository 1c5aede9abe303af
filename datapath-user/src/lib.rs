//! The `datapath` agent and command line.
//!
//! Arrows point one way: [`k8s`] → [`model`] → [`plan`] → [`datapath`]. The [`agent`] joins them,
//! [`health`] tells how it fares, [`show`] reads the node's state for people, with the names that
//! [`roster`] keeps. [`args`] and [`config`]
//! say what the operator wants, [`node`] sets what he wants of the node itself.

pub mod agent;
pub mod args;
pub mod config;
pub mod datapath;
pub mod health;
pub mod k8s;
pub mod model;
pub mod node;
pub mod plan;
pub mod roster;
pub mod show;

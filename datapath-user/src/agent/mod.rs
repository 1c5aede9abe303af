//! The agent: brings the kernel to what the cluster says, and keeps it there.
//!
//! Everything that happens ends in one of two things: an event changes the model or the network and
//! is applied some milliseconds later ([`Controller::apply`]), or a clock asks whether the kernel
//! still holds what it should ([`Controller::audit`]). The agent's end changes nothing for traffic.

mod cni;
mod controller;
mod kernel;
mod run;
#[cfg(test)]
mod tests;
mod words;

pub use cni::CniOptions;
pub use controller::{Controller, KernelSettings};
pub use kernel::Kernel;
pub use run::{Error, Objects, Options, run};

//! Section 2: the upstream end-to-end tests (`test/e2e/network` of Kubernetes), each by its name.
//!
//! Where such a test needs what the lab does not have (a cloud, a kubelet), the case has the part of it
//! that is about the proxy: endpoints come from the real controller where the test is about pods that
//! come and go, and are written by hand where it is about their conditions.

mod networking;
mod not_applicable;
mod policies;
mod services;

use super::super::case::Case;

pub use not_applicable::NOT_APPLICABLE;

pub(super) fn cases() -> Vec<Case> {
    [services::cases(), policies::cases(), networking::cases()].into_iter().flatten().collect()
}

//! What the agent tells about itself: health, metrics, and the health of single Services.
//!
//! Paths, bodies, headers, codes and names are kube-proxy's wherever the meaning is the same
//! (`pkg/proxy/healthcheck`, `pkg/proxy/metrics`).

mod kernel;
mod metrics;
mod server;
mod service;
mod telemetry;

pub use kernel::KernelNumbers;
pub use server::{NumbersRequest, serve_health, serve_metrics};
pub use service::ServiceHealth;
pub use telemetry::{ProxyHealth, Telemetry};

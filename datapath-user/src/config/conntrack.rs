//! Settings of the kernel's connection tracking.

use super::GoDuration;
use crate::node::Conntrack;
use clap::Args;

/// What kube-proxy sets; what is not given stays for the next in line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args)]
pub struct ConntrackConfig {
    /// Connections that the kernel tracks, for each CPU; 0 leaves the limit as it is
    /// [default: 32768].
    #[arg(
        id = "conntrack-max-per-core",
        long,
        value_name = "NUMBER",
        env = "DATAPATH_CONNTRACK_MAX_PER_CORE"
    )]
    pub max_per_core: Option<u32>,
    /// Connections that the kernel tracks at least [default: 131072].
    #[arg(id = "conntrack-min", long, value_name = "NUMBER", env = "DATAPATH_CONNTRACK_MIN")]
    pub min: Option<u32>,
    /// When an idle TCP connection is forgotten; 0 leaves it as it is [default: 24h].
    #[arg(
        id = "conntrack-tcp-timeout-established",
        long,
        value_name = "DURATION",
        env = "DATAPATH_CONNTRACK_TCP_TIMEOUT_ESTABLISHED"
    )]
    pub tcp_timeout_established: Option<GoDuration>,
    /// When an idle half-closed TCP connection is forgotten; 0 leaves it as it is [default: 1h].
    #[arg(
        id = "conntrack-tcp-timeout-close-wait",
        long,
        value_name = "DURATION",
        env = "DATAPATH_CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT"
    )]
    pub tcp_timeout_close_wait: Option<GoDuration>,
    /// Let TCP packets outside of their window pass.
    #[arg(id = "conntrack-tcp-be-liberal", long, value_name = "true|false",
        env = "DATAPATH_CONNTRACK_TCP_BE_LIBERAL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub tcp_be_liberal: Option<bool>,
    /// When a UDP flow without an answer is forgotten; 0 leaves it as it is.
    #[arg(
        id = "conntrack-udp-timeout",
        long,
        value_name = "DURATION",
        env = "DATAPATH_CONNTRACK_UDP_TIMEOUT"
    )]
    pub udp_timeout: Option<GoDuration>,
    /// When a UDP flow with answers is forgotten; 0 leaves it as it is.
    #[arg(
        id = "conntrack-udp-timeout-stream",
        long,
        value_name = "DURATION",
        env = "DATAPATH_CONNTRACK_UDP_TIMEOUT_STREAM"
    )]
    pub udp_timeout_stream: Option<GoDuration>,
}

impl ConntrackConfig {
    /// This, and where it says nothing, `file`.
    #[must_use]
    pub(super) fn or(self, file: Self) -> Self {
        let Self {
            max_per_core,
            min,
            tcp_timeout_established,
            tcp_timeout_close_wait,
            tcp_be_liberal,
            udp_timeout,
            udp_timeout_stream,
        } = self;
        Self {
            max_per_core: max_per_core.or(file.max_per_core),
            min: min.or(file.min),
            tcp_timeout_established: tcp_timeout_established.or(file.tcp_timeout_established),
            tcp_timeout_close_wait: tcp_timeout_close_wait.or(file.tcp_timeout_close_wait),
            tcp_be_liberal: tcp_be_liberal.or(file.tcp_be_liberal),
            udp_timeout: udp_timeout.or(file.udp_timeout),
            udp_timeout_stream: udp_timeout_stream.or(file.udp_timeout_stream),
        }
    }

    /// With kube-proxy's defaults.
    pub fn settings(self) -> Conntrack {
        let or =
            |given: Option<GoDuration>, seconds| given.map_or(seconds, |time| time.0.as_secs());
        Conntrack {
            max_per_core: self.max_per_core.unwrap_or(32 << 10),
            min: self.min.unwrap_or(128 << 10),
            tcp_timeout_established: or(self.tcp_timeout_established, 24 * 60 * 60),
            tcp_timeout_close_wait: or(self.tcp_timeout_close_wait, 60 * 60),
            tcp_be_liberal: self.tcp_be_liberal.unwrap_or(false),
            udp_timeout: or(self.udp_timeout, 0),
            udp_timeout_stream: or(self.udp_timeout_stream, 0),
        }
    }
}

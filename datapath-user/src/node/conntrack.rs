//! The kernel's connection tracking. Our flows need none of it, but what netfilter tracks besides
//! (the portmap plugin's host ports, a node's firewall) has lived with kube-proxy's settings.

use super::{NotSet, Sysctls};
use nix::unistd::{SysconfVar, sysconf};
use std::fs;
use tracing::debug;

/// Limits and timeouts in seconds; 0 leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conntrack {
    /// Tracked connections for each CPU.
    pub max_per_core: u32,
    /// Tracked connections at least, if `max_per_core` is set.
    pub min: u32,
    /// Of idle TCP connections.
    pub tcp_timeout_established: u64,
    /// Of idle half-closed TCP connections.
    pub tcp_timeout_close_wait: u64,
    /// Whether TCP packets outside of their window pass.
    pub tcp_be_liberal: bool,
    /// Of UDP flows without an answer.
    pub udp_timeout: u64,
    /// Of UDP flows with answers.
    pub udp_timeout_stream: u64,
}

impl Conntrack {
    /// Sets what is not 0.
    pub(super) fn set(&self, sysctls: &Sysctls) -> Vec<NotSet> {
        let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
        let max = self.max(u64::try_from(cpus).unwrap_or(1));
        let wanted = [
            ("nf_conntrack_max", max),
            ("nf_conntrack_tcp_timeout_established", self.tcp_timeout_established),
            ("nf_conntrack_tcp_timeout_close_wait", self.tcp_timeout_close_wait),
            ("nf_conntrack_tcp_be_liberal", u64::from(self.tcp_be_liberal)),
            ("nf_conntrack_udp_timeout", self.udp_timeout),
            ("nf_conntrack_udp_timeout_stream", self.udp_timeout_stream),
        ];
        let wanted = wanted.into_iter().filter(|(_, value)| *value != 0);
        let results = wanted.map(|(name, value)| sysctls.set(&format!("netfilter/{name}"), value));
        let not_set: Vec<_> = results.filter_map(Result::err).collect();
        if max > 0 && not_set.is_empty() {
            widen(max / BUCKET);
        }
        not_set
    }

    fn max(&self, cpus: u64) -> u64 {
        if self.max_per_core == 0 {
            return 0;
        }
        let scaled = u64::from(self.max_per_core) * cpus;
        // The cap is on what follows from the number of CPUs, as in kube-proxy.
        if scaled > CAP { CAP } else { scaled.max(self.min.into()) }
    }
}

/// Gives the table at least so many buckets, where we may.
fn widen(buckets: u64) {
    let now = fs::read_to_string(HASH_SIZE).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if now.is_some_and(|now| now < buckets)
        && let Err(error) = fs::write(HASH_SIZE, buckets.to_string())
    {
        debug!(%error, buckets, "the table of tracked connections keeps its buckets");
    }
}

const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// Connections in a bucket of a full table.
const BUCKET: u64 = 4;

/// kube-proxy's cap.
const CAP: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConntrackConfig;

    #[test]
    fn the_limit_follows_the_cpus() {
        for (max_per_core, min, cpus, expected) in [
            (32 << 10, 128 << 10, 1, 128 << 10),
            (32 << 10, 128 << 10, 8, 256 << 10),
            (32 << 10, 128 << 10, 64, 1 << 20),
            (0, 128 << 10, 8, 0),
            (10, 0, 3, 30),
            (1, 2 << 20, 8, 2 << 20),
        ] {
            let settings = ConntrackConfig::default().settings();
            let conntrack = Conntrack { max_per_core, min, ..settings };
            assert_eq!(conntrack.max(cpus), expected, "{max_per_core}, {min}, {cpus}");
        }
    }

    #[test]
    fn only_what_differs_is_written_and_what_fails_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name| folder.path().join("netfilter").join(name);
        fs::create_dir(folder.path().join("netfilter")).expect("a folder");
        for (name, value) in [
            ("nf_conntrack_tcp_timeout_established", "432000\n"),
            ("nf_conntrack_tcp_timeout_close_wait", "3600\n"),
            ("nf_conntrack_udp_timeout", "30\n"),
        ] {
            fs::write(file(name), value).expect("a setting");
        }
        let settings = ConntrackConfig { max_per_core: Some(0), ..ConntrackConfig::default() };
        let conntrack = Conntrack { udp_timeout_stream: 60, ..settings.settings() };
        let not_set = conntrack.set(&Sysctls::in_folder(folder.path()));
        let names: Vec<_> = not_set.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["net/netfilter/nf_conntrack_udp_timeout_stream"]);
        let read = |name| fs::read_to_string(file(name)).expect("a setting");
        assert_eq!(read("nf_conntrack_tcp_timeout_established"), "86400\n");
        assert_eq!(read("nf_conntrack_tcp_timeout_close_wait"), "3600\n");
        assert_eq!(read("nf_conntrack_udp_timeout"), "30\n", "not given, not set");
        assert!(!file("nf_conntrack_tcp_be_liberal").exists());
    }
}

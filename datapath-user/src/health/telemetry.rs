//! Where the agent reports what it does.

use super::{KernelNumbers, metrics::Metrics};
use crate::model::{Dirty, Family};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// State of the agent, for those who ask.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    state: Mutex<State>,
    /// How long something may wait to be applied before that is a fault.
    health_time: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// When each family was last applied.
    updated: BTreeMap<Family, SystemTime>,
    /// Since when something waits to be applied.
    queued: Option<Instant>,
    /// Whether load balancers may send this node work.
    eligible: bool,
}

/// The body of `/healthz` and `/livez`.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProxyHealth {
    last_updated: String,
    current_time: String,
    /// Only in `/healthz`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    /// Whether changes reach the kernel.
    pub healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(HEALTH_TIME)
    }
}

impl Telemetry {
    /// It is a fault if something waits that long to be applied.
    pub fn new(health_time: Duration) -> Self {
        Self { metrics: Metrics::new(), state: Mutex::default(), health_time }
    }

    /// Something waits to be applied from now on.
    pub fn queued(&self) {
        self.state().queued.get_or_insert_with(Instant::now);
        self.metrics.queued();
    }

    /// All that waited was applied, or was tried to. `full`: for the first time.
    pub fn applied(
        &self,
        dirty: &Dirty,
        full: bool,
        written: bool,
        elapsed: Duration,
        families: Vec<Family>,
    ) {
        let now = SystemTime::now();
        self.metrics.applied(dirty, full, written, elapsed, &families, now);
        if written {
            let mut state = self.state();
            state.queued = None;
            state.updated = families.into_iter().map(|family| (family, now)).collect();
        }
    }

    /// A write to the maps failed.
    pub fn failed(&self) {
        self.metrics.failures.inc();
    }

    /// Something in the kernel was not as it should be.
    pub fn repaired(&self, what: &'static str, count: u64) {
        self.metrics.repaired(what, count);
    }

    /// A pod's new interface got its programs this long after the kernel's word of it.
    pub fn pod_attached(&self, delay: Duration) {
        self.metrics.pod_attach.observe(delay.as_secs_f64());
    }

    /// Expired flows were removed.
    pub fn swept(&self, flows: u64) {
        self.metrics.swept.inc_by(flows);
    }

    /// Whether load balancers may send this node work.
    pub fn set_eligible(&self, eligible: bool) {
        self.state().eligible = eligible;
    }

    /// Whether changes reach the kernel in time.
    pub fn is_healthy(&self) -> bool {
        self.state().is_healthy(self.health_time)
    }

    /// The answer to `/livez`, or with `healthz` to that path; counted.
    pub fn health(&self, healthz: bool) -> ProxyHealth {
        let now = timestamp(SystemTime::now());
        let state = self.state();
        let (fine, eligible) = (state.is_healthy(self.health_time), state.eligible);
        let last = state.updated.values().max();
        let families = state.updated.iter().map(|(family, updated)| {
            (family.name(), FamilyHealth { last_updated: timestamp(*updated), healthy: fine })
        });
        let good = fine && (!healthz || eligible);
        self.metrics.asked(healthz, good);
        ProxyHealth {
            // As kube-proxy: "now" while all is well, for clients of old.
            last_updated: match last {
                _ if good => now.clone(),
                Some(last) => timestamp(*last),
                None => "0001-01-01T00:00:00Z".to_owned(),
            },
            current_time: now,
            node_eligible: healthz.then_some(eligible),
            healthy: fine,
            status: families.collect(),
        }
    }

    /// The text of `/metrics`.
    pub fn encode(&self, kernel: Option<KernelNumbers>) -> String {
        self.metrics.encode(kernel)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_healthy(&self, health_time: Duration) -> bool {
        self.queued.is_none_or(|since| since.elapsed() < health_time)
    }
}

fn timestamp(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}

/// Two of kube-proxy's sync periods.
const HEALTH_TIME: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_waits_too_long_is_a_fault() {
        let telemetry = Telemetry::default();
        assert!(telemetry.is_healthy(), "starting is no fault");
        telemetry.queued();
        assert!(telemetry.is_healthy(), "waiting a little is none either");
        telemetry.state().queued = Instant::now().checked_sub(HEALTH_TIME);
        let health = telemetry.health(false);
        assert!(!health.healthy && health.node_eligible.is_none());
        let took = Duration::from_millis(1);
        telemetry.applied(&Dirty::default(), false, true, took, vec![Family::V4]);
        assert!(telemetry.health(false).healthy);
    }

    #[test]
    fn the_body_is_kube_proxys() {
        let telemetry = Telemetry::default();
        let took = Duration::from_millis(1);
        telemetry.applied(&Dirty::default(), true, true, took, vec![Family::V4, Family::V6]);
        telemetry.set_eligible(true);
        let body = serde_json::to_value(telemetry.health(true)).expect("JSON");
        assert_eq!(body["healthy"], true);
        assert_eq!(body["nodeEligible"], true);
        assert_eq!(body["status"]["IPv6"]["healthy"], true);
        assert_eq!(body["lastUpdated"], body["currentTime"]);
    }

    #[test]
    fn metrics_have_kube_proxys_names() {
        let telemetry = Telemetry::default();
        telemetry.queued();
        let dirty = Dirty {
            service_changes: 2,
            trigger_times: vec![SystemTime::now()],
            ..Dirty::default()
        };
        telemetry.applied(&dirty, false, true, Duration::from_millis(3), vec![Family::V4]);
        telemetry.health(true);
        telemetry.repaired("stale_entry", 3);
        telemetry.pod_attached(Duration::from_millis(1));
        let text = telemetry.encode(None);
        for line in [
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
            "kubeproxy_sync_proxy_rules_service_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ",
            "datapath_repairs_total{what=\"stale_entry\"} 3",
            "datapath_pod_attach_duration_seconds_bucket{le=\"0.001\"} 1",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line}\n{text}");
        }
    }
}

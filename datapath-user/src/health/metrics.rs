//! The agent's own metrics.

use super::{KernelNumbers, kernel::KernelCollector};
use crate::model::{Dirty, Family};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family as Labelled, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{
    sync::{PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

type Labels = [(&'static str, &'static str); 1];
type Histograms = Labelled<Labels, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// All of them.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    kernel: KernelCollector,
    healthz: Labelled<Labels, Counter>,
    livez: Labelled<Labels, Counter>,
    programming: Histograms,
    sync: Histograms,
    full_sync: Histograms,
    partial_sync: Histograms,
    service_changes: Counter,
    slice_changes: Counter,
    queued: Labelled<Labels, Seconds>,
    applied: Labelled<Labels, Seconds>,
    pub(super) failures: Counter,
    pub(super) swept: Counter,
    repairs: Labelled<Labels, Counter>,
    pub(super) pod_attach: Histogram,
    memory: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let sync: Histograms = Labelled::new_with_constructor(sync_histogram);
        let mut metrics = Self {
            registry: Registry::default(),
            kernel: KernelCollector::default(),
            healthz: Labelled::default(),
            livez: Labelled::default(),
            programming: Labelled::new_with_constructor(programming_histogram),
            full_sync: Labelled::new_with_constructor(sync_histogram),
            partial_sync: Labelled::new_with_constructor(sync_histogram),
            sync,
            service_changes: Counter::default(),
            slice_changes: Counter::default(),
            queued: Labelled::default(),
            applied: Labelled::default(),
            failures: Counter::default(),
            swept: Counter::default(),
            repairs: Labelled::default(),
            pod_attach: Histogram::new(POD_ATTACH_BOUNDS),
            memory: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    /// Names end in what the format adds: `_total` for counters.
    fn register(&mut self) {
        let registry = &mut self.registry;
        let kubeproxy = registry.sub_registry_with_prefix("kubeproxy");
        kubeproxy.register("proxy_healthz", "Answers of /healthz by code", self.healthz.clone());
        kubeproxy.register("proxy_livez", "Answers of /livez by code", self.livez.clone());
        kubeproxy.register(
            "network_programming_duration_seconds",
            "Time from a change of a Service or its pods to the maps",
            self.programming.clone(),
        );
        for (name, help, histograms) in [
            ("sync_proxy_rules_duration_seconds", "Time to apply", &self.sync),
            ("sync_full_proxy_rules_duration_seconds", "Time to apply all", &self.full_sync),
            (
                "sync_partial_proxy_rules_duration_seconds",
                "Time to apply changes",
                &self.partial_sync,
            ),
        ] {
            kubeproxy.register(name, help, histograms.clone());
        }
        for (name, help, counters) in [
            ("sync_proxy_rules_service_changes", "Changes of Services", &self.service_changes),
            ("sync_proxy_rules_endpoint_changes", "Changes of slices", &self.slice_changes),
        ] {
            kubeproxy.register(name, help, counters.clone());
        }
        for (name, help, gauges) in [
            (
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a change last came",
                &self.queued,
            ),
            (
                "sync_proxy_rules_last_timestamp_seconds",
                "When changes were last applied",
                &self.applied,
            ),
        ] {
            kubeproxy.register(name, help, gauges.clone());
        }
        let own = registry.sub_registry_with_prefix("datapath");
        own.register("apply_failures", "Writes to the maps that failed", self.failures.clone());
        own.register("flows_swept", "Expired flows that were removed", self.swept.clone());
        own.register(
            "repairs",
            "What was found missing or stale in the kernel",
            self.repairs.clone(),
        );
        own.register(
            "pod_attach_duration_seconds",
            "Time from the kernel's word of a pod's new interface to its programs",
            self.pod_attach.clone(),
        );
        registry.register(
            "process_resident_memory_bytes",
            "Memory of the agent",
            self.memory.clone(),
        );
        registry.register_collector(Box::new(self.kernel.clone()));
    }

    pub(super) fn asked(&self, healthz: bool, good: bool) {
        let counters = if healthz { &self.healthz } else { &self.livez };
        counters.get_or_create(&[("code", if good { "200" } else { "503" })]).inc();
    }

    pub(super) fn queued(&self) {
        for family in Family::ALL {
            self.queued.get_or_create(&label(family)).set(seconds(SystemTime::now()));
        }
    }

    pub(super) fn applied(
        &self,
        dirty: &Dirty,
        full: bool,
        written: bool,
        elapsed: Duration,
        families: &[Family],
        now: SystemTime,
    ) {
        self.service_changes.inc_by(dirty.service_changes);
        self.slice_changes.inc_by(dirty.slice_changes);
        let kind = if full { &self.full_sync } else { &self.partial_sync };
        for family in families.iter().map(|family| label(*family)) {
            self.sync.get_or_create(&family).observe(elapsed.as_secs_f64());
            kind.get_or_create(&family).observe(elapsed.as_secs_f64());
            if !written {
                continue;
            }
            self.applied.get_or_create(&family).set(seconds(now));
            // What happened before we started was not for us to program.
            for time in dirty.trigger_times.iter().filter(|_| !full) {
                let since = now.duration_since(*time).unwrap_or_default();
                self.programming.get_or_create(&family).observe(since.as_secs_f64());
            }
        }
    }

    pub(super) fn repaired(&self, what: &'static str, count: u64) {
        self.repairs.get_or_create(&[("what", what)]).inc_by(count);
    }

    pub(super) fn encode(&self, kernel: Option<KernelNumbers>) -> String {
        *self.kernel.0.lock().unwrap_or_else(PoisonError::into_inner) = kernel.unwrap_or_default();
        self.memory.set(resident_memory());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn label(family: Family) -> Labels {
    [("ip_family", family.name())]
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Bytes of memory that this process has; 0 if the system does not tell.
fn resident_memory() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    pages.unwrap_or(0) * page.unwrap_or(0)
}

/// kube-proxy's buckets.
fn sync_histogram() -> Histogram {
    Histogram::new((0..15).map(|power| 0.001 * f64::from(1 << power)))
}

/// kube-proxy's buckets.
fn programming_histogram() -> Histogram {
    let steps = [0.25, 0.5].into_iter().chain((1..60).map(f64::from));
    let fives = (60..=115).step_by(5).map(f64::from);
    Histogram::new(steps.chain(fives).chain((120..=300).step_by(30).map(f64::from)))
}

/// Seconds; closest where it is told whether a pod's interface is attached to within 50 ms.
const POD_ATTACH_BOUNDS: [f64; 18] = [
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5,
    1.0, 2.0, 5.0,
];

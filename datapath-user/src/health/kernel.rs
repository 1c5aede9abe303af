//! Numbers that the kernel counts, as metrics.

use crate::{datapath::MapFill, plan::NoLocalEndpoints};
use datapath_common::{Outcome, ServiceStats};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// One reading of the kernel's numbers.
#[derive(Clone, Debug, Default)]
pub struct KernelNumbers {
    /// Packets and calls by outcome.
    pub outcomes: Vec<(Outcome, u64)>,
    /// Statistics by label of the service port.
    pub services: Vec<(String, ServiceStats)>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
    /// Uplinks with XDP, each with the mode's name.
    pub xdp: Vec<(String, &'static str)>,
    /// Changes of Services that are not in the maps yet.
    pub pending_services: u64,
    /// Changes of slices, likewise.
    pub pending_slices: u64,
    /// Service ports that a policy Local leaves without endpoints here.
    pub no_local_endpoints: NoLocalEndpoints,
}

/// Encodes the last reading.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelCollector(pub(super) Arc<Mutex<KernelNumbers>>);

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let KernelNumbers {
            outcomes,
            services,
            maps,
            xdp,
            pending_services,
            pending_slices,
            no_local_endpoints,
        } = &*numbers;
        let outcomes = outcomes.iter().map(|(o, count)| ([("outcome", o.name())], *count));
        counters(
            &mut encoder,
            "datapath_outcomes",
            "Packets and socket calls by what became of them",
            outcomes,
        )?;
        for (name, help, read) in SERVICE_NUMBERS {
            let values = services.iter().map(|(label, s)| ([("service", label.as_str())], read(s)));
            counters(&mut encoder, name, help, values)?;
        }
        let entries = maps.iter().map(|map| ([("map", map.name)], map.entries));
        gauges(&mut encoder, "datapath_map_entries", "Entries in a map", entries)?;
        let sizes = maps.iter().map(|map| ([("map", map.name)], u64::from(map.max_entries)));
        gauges(&mut encoder, "datapath_map_max_entries", "Entries that fit a map", sizes)?;
        let memory = maps.iter().filter_map(|map| Some(([("map", map.name)], map.memory?)));
        gauges(
            &mut encoder,
            "datapath_map_memory_bytes",
            "Kernel memory that a map takes",
            memory,
        )?;
        let modes = xdp.iter().map(|(device, mode)| ([("device", &**device), ("mode", *mode)], 1));
        gauges(&mut encoder, "datapath_xdp", "Uplinks where XDP runs, and how", modes)?;
        for (name, help, pending) in [
            (
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Changes of Services that are not applied yet",
                pending_services,
            ),
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Changes of slices that are not applied yet",
                pending_slices,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(*pending).encode(metric)?;
        }
        let counts = no_local_endpoints.iter().map(|((family, policy), count)| {
            ([("ip_family", family.name()), ("traffic_policy", *policy)], *count)
        });
        gauges(
            &mut encoder,
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local traffic policy and no local endpoints",
            counts,
        )
    }
}

type ServiceNumber = (&'static str, &'static str, fn(&ServiceStats) -> u64);

const SERVICE_NUMBERS: [ServiceNumber; 3] = [
    ("datapath_service_flows", "New flows translated by tc", |stats| stats.flows),
    ("datapath_service_sockets", "Connections translated at the socket", |stats| stats.sockets),
    ("datapath_service_refused", "Packets that met no endpoint", |stats| stats.refused),
];

fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

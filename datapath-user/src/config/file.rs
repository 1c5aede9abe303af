//! KubeProxyConfiguration v1alpha1 (`kubeproxy.config.k8s.io`), as kube-proxy 1.36 reads it.

use super::{
    ConntrackConfig, ProxyConfig,
    fields::Fields,
    values::{GoDuration, LocalMode},
};
use crate::{model::Family, plan::NodePortAddresses};
use ipnet::IpNet;
use std::time::Duration;

/// Takes every field that kube-proxy knows.
pub(super) fn read(fields: &mut Fields) -> ProxyConfig {
    header(fields);
    let section = mode(fields);
    let (sync_period, masquerade_all) = section.read(fields);
    without_effect(fields);
    let local_mode = fields.parsed("detectLocalMode");
    let config = ProxyConfig {
        node_name: fields.text("hostnameOverride"),
        kubeconfig: fields.parsed("clientConnection.kubeconfig"),
        bind_address: fields.parsed("bindAddress"),
        healthz_bind_address: fields.parsed("healthzBindAddress"),
        metrics_bind_address: fields.parsed("metricsBindAddress"),
        service_proxy_name: fields.text("serviceProxyName"),
        masquerade_all,
        localhost_nodeports: fields.switch("iptables.localhostNodePorts"),
        nodeport_addresses: node_port_addresses(fields, section),
        detect_local_mode: local_mode,
        pod_bridge_interface: fields.text("detectLocal.bridgeInterface"),
        pod_interface_name_prefix: fields.text("detectLocal.interfaceNamePrefix"),
        cluster_cidr: cluster_cidr(fields, local_mode),
        oom_score_adj: fields.number("oomScoreAdj", -1000..=1000),
        sync_period,
        config_sync_period: period(fields, "configSyncPeriod"),
        conntrack: conntrack(fields),
        log_format: fields.parsed("logging.format"),
    };
    fields.finish();
    config
}

fn header(fields: &mut Fields) {
    for (field, expected) in
        [("apiVersion", "kubeproxy.config.k8s.io/v1alpha1"), ("kind", "KubeProxyConfiguration")]
    {
        let found = fields.text(field).unwrap_or_default();
        if found != expected {
            fields.reject::<()>(field, &found.into(), format!("not {expected}"));
        }
    }
}

/// The section whose settings count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Also for the mode ipvs, which has no switch for masquerading of its own.
    Iptables,
    Nftables,
}

fn mode(fields: &mut Fields) -> Section {
    let mode = fields.text("mode").unwrap_or_default();
    match mode.as_str() {
        "" | "iptables" => {}
        "nftables" => return Section::Nftables,
        "ipvs" => fields.warn("mode", &mode.into(), "Services are done in eBPF, as iptables would"),
        _ => _ = fields.reject::<()>("mode", &mode.into(), "not one of iptables, ipvs, nftables"),
    }
    Section::Iptables
}

impl Section {
    /// The sync period, and whether everybody's source is hidden.
    fn read(self, fields: &mut Fields) -> (Option<GoDuration>, Option<bool>) {
        let mut of = |name: &str| {
            let field = |last| format!("{name}.{last}");
            let sync = period(fields, &field("syncPeriod"));
            min_sync_period(fields, &field("minSyncPeriod"), sync);
            fields.number::<u8>(&field("masqueradeBit"), 0..=31);
            (sync, fields.switch(&field("masqueradeAll")))
        };
        let (iptables, nftables) = (of("iptables"), of("nftables"));
        if self == Self::Nftables { nftables } else { iptables }
    }
}

/// It keeps kube-proxy from rewriting its rules too often. We write what has changed, so there is
/// nothing to hold back; only somebody who asks for more than the usual second must be told.
fn min_sync_period(fields: &mut Fields, field: &str, sync: Option<GoDuration>) {
    let Some(text) = fields.text(field) else { return };
    match text.parse() {
        Ok(GoDuration(pause)) if pause > sync.map_or(SYNC_PERIOD, |sync| sync.0) => {
            _ = fields.reject::<()>(field, &text.into(), "longer than syncPeriod");
        }
        Ok(GoDuration(pause)) if pause > MIN_SYNC_PERIOD => {
            fields.warn(field, &text.into(), "changes are applied within milliseconds");
        }
        Ok(GoDuration(_)) => {}
        Err(error) => _ = fields.reject::<()>(field, &text.into(), error),
    }
}

/// A duration of which 0 means the default.
fn period(fields: &mut Fields, field: &str) -> Option<GoDuration> {
    fields.parsed::<GoDuration>(field).filter(|period| !period.0.is_zero())
}

/// Without any, the modes differ: iptables serves node ports on all addresses of the node.
fn node_port_addresses(fields: &mut Fields, section: Section) -> Option<NodePortAddresses> {
    let list = fields.list("nodePortAddresses").unwrap_or_default();
    if list.is_empty() {
        return Some(match section {
            Section::Iptables => NodePortAddresses::all(),
            Section::Nftables => NodePortAddresses::default(),
        });
    }
    match list.join(",").parse() {
        Ok(addresses) => Some(addresses),
        Err(error) => fields.reject("nodePortAddresses", &list.into(), error),
    }
}

fn cluster_cidr(fields: &mut Fields, mode: Option<LocalMode>) -> Option<Vec<IpNet>> {
    const FIELD: &str = "clusterCIDR";
    let text = fields.text(FIELD)?;
    let cidrs: Result<Vec<IpNet>, _> = text.split(',').map(|cidr| cidr.trim().parse()).collect();
    let Ok(cidrs) = cidrs else {
        return fields.reject(FIELD, &text.into(), "not a range such as 10.10.0.0/16, or two");
    };
    let families: Vec<_> = cidrs.iter().map(|cidr| Family::of_net(*cidr)).collect();
    let counts = matches!(mode, None | Some(LocalMode::ClusterCidr));
    match families.as_slice() {
        [_] => Some(cidrs),
        [first, second] if first != second => Some(cidrs),
        _ if !counts => Some(cidrs),
        _ => fields.reject(FIELD, &text.into(), "neither one range nor one of each family"),
    }
}

fn conntrack(fields: &mut Fields) -> ConntrackConfig {
    ConntrackConfig {
        max_per_core: fields.number("conntrack.maxPerCore", 0..=i32::MAX.into()),
        min: fields.number("conntrack.min", 0..=i32::MAX.into()),
        tcp_timeout_established: fields.parsed("conntrack.tcpEstablishedTimeout"),
        tcp_timeout_close_wait: fields.parsed("conntrack.tcpCloseWaitTimeout"),
        tcp_be_liberal: fields.switch("conntrack.tcpBeLiberal"),
        udp_timeout: fields.parsed("conntrack.udpTimeout"),
        udp_timeout_stream: fields.parsed("conntrack.udpStreamTimeout"),
    }
}

/// Fields of kube-proxy that say nothing to us, with the values that it writes into them itself.
fn without_effect(fields: &mut Fields) {
    for (field, usual, reason) in [
        ("ipvs", &["30s"][..], "there is no IPVS here"),
        ("winkernel", &[], "this is not Windows"),
        ("windowsRunAsService", &[], "this is not Windows"),
        ("featureGates", &[], "a switch of kube-proxy's own code"),
        ("portRange", &[], "unused by kube-proxy too"),
        ("bindAddressHardFail", &[], "an address that is taken is tried again"),
        ("enableProfiling", &[], "there are no profiles of Go's kind"),
        ("showHiddenMetricsForVersion", &[], "no metrics are hidden"),
        ("clientConnection.acceptContentTypes", &[], "objects are read as JSON"),
        ("clientConnection.contentType", &[PROTOBUF, JSON], "objects are read as JSON"),
        ("clientConnection.qps", &["5", "5.0"], "a few watches need no limit"),
        ("clientConnection.burst", &["10"], "a few watches need no limit"),
        ("logging.flushFrequency", &["5s", "5000000000"], "logs are not buffered"),
        ("logging.verbosity", &[], "the variable RUST_LOG says what is logged"),
        ("logging.vmodule", &[], "the variable RUST_LOG says what is logged"),
        ("logging.options", &[], "logs are not buffered"),
    ] {
        fields.without_effect(field, usual, reason);
    }
}

/// kube-proxy's defaults.
const SYNC_PERIOD: Duration = Duration::from_secs(30);
const MIN_SYNC_PERIOD: Duration = Duration::from_secs(1);
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";

//! Files of kube-proxy, and what becomes of them.

use super::*;
use crate::model::Family;
use std::{fs, time::Duration};

const HEADER: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn read_text(text: &str) -> Result<(ProxyConfig, Vec<Remark>), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.conf");
    fs::write(&path, text).expect("a file");
    read(&path)
}

fn config(fields: &str) -> ProxyConfig {
    let (config, warnings) = read_text(&format!("{HEADER}{fields}\n")).expect(fields);
    assert_eq!(warnings, [], "{fields}");
    config
}

fn listen(config: &ProxyConfig) -> [Option<String>; 2] {
    let addresses = [config.healthz_address(), config.metrics_address()];
    addresses.map(|address| address.map(|address| address.to_string()))
}

/// The ConfigMap of the reference cluster, as kind and kubeadm write it.
#[test]
fn the_reference_clusters_own_file_means_what_it_means_to_kube_proxy() {
    let (config, warnings) = read_text(include_str!("tests/reference.yaml")).expect("a file");
    assert_eq!(warnings, []);
    assert_eq!(config.kubeconfig, Some("/var/lib/kube-proxy/kubeconfig.conf".into()));
    assert_eq!(config.node_name, None);
    assert_eq!(config.primary_address(), None);
    let pods = "10.10.0.0/16".parse().expect("a range");
    assert_eq!(config.local_detector().expect("a mode"), LocalDetector::Ranges(vec![pods]));
    assert_eq!(config.node_port_addresses(), NodePortAddresses::all());
    assert!(config.node_port_addresses().include_localhost(Family::V4));
    assert_eq!(config.masquerade_all, Some(false));
    assert_eq!(listen(&config), [Some("0.0.0.0:10256".into()), Some("127.0.0.1:10249".into())]);
    assert_eq!(config.sync_period(), Duration::from_secs(30));
    assert_eq!(config.config_sync_period(), Duration::from_mins(15));
    assert_eq!(config.oom_score_adj, None);
    let conntrack = config.conntrack.settings();
    let times = (conntrack.tcp_timeout_established, conntrack.tcp_timeout_close_wait);
    assert_eq!((conntrack.max_per_core, times), (0, (86_400, 3_600)));
}

#[test]
fn a_file_of_kube_proxys_defaults_is_worth_no_warning() {
    config(
        "clientConnection: {contentType: application/vnd.kubernetes.protobuf, qps: 5, burst: 10}
iptables: {masqueradeBit: 14, minSyncPeriod: 1s, syncPeriod: 30s, localhostNodePorts: true}
nftables: {masqueradeBit: 14, minSyncPeriod: 1s, syncPeriod: 30s}
ipvs: {syncPeriod: 30s, excludeCIDRs: []}
logging: {flushFrequency: 5s, format: text, verbosity: 0}
featureGates: {}
bindAddress: 0.0.0.0
oomScoreAdj: -999",
    );
}

#[test]
fn every_field_that_counts_is_read() {
    let config = config(
        "hostnameOverride: n1
clientConnection: {kubeconfig: /etc/kubeconfig}
bindAddress: 'fd00::3'
serviceProxyName: other
mode: nftables
nftables: {masqueradeAll: true, syncPeriod: 1m, minSyncPeriod: 500ms}
iptables: {masqueradeAll: false, syncPeriod: 2m, localhostNodePorts: false}
detectLocalMode: InterfaceNamePrefix
detectLocal: {interfaceNamePrefix: cali}
nodePortAddresses: [primary, 192.0.2.0/24]
oomScoreAdj: -500
conntrack: {maxPerCore: 5, min: 6, tcpEstablishedTimeout: 1h, tcpCloseWaitTimeout: 0s,
  tcpBeLiberal: true, udpTimeout: 30s, udpStreamTimeout: 2m}
configSyncPeriod: 5m
logging: {format: json}",
    );
    assert_eq!(config.node_name(), "n1");
    assert_eq!(config.kubeconfig, Some("/etc/kubeconfig".into()));
    assert_eq!(config.primary_address(), Some("fd00::3".parse().expect("an address")));
    assert_eq!(config.service_proxy_name.as_deref(), Some("other"));
    assert_eq!(config.masquerade_all, Some(true));
    assert_eq!(config.sync_period(), Duration::from_mins(1));
    assert_eq!(config.config_sync_period(), Duration::from_mins(5));
    assert_eq!(config.local_detector().expect("a mode"), LocalDetector::Prefix("cali".into()));
    let addresses = "primary,192.0.2.0/24".parse::<NodePortAddresses>().expect("a list");
    assert_eq!(config.node_port_addresses(), addresses.without_localhost());
    assert_eq!(config.oom_score_adj, Some(-500));
    assert_eq!(config.log_format, Some(LogFormat::Json));
    assert_eq!(listen(&config), [Some("[::]:10256".into()), Some("[::1]:10249".into())]);
    let conntrack = config.conntrack.settings();
    let expected = crate::node::Conntrack {
        max_per_core: 5,
        min: 6,
        tcp_timeout_established: 3600,
        tcp_timeout_close_wait: 0,
        tcp_be_liberal: true,
        udp_timeout: 30,
        udp_timeout_stream: 120,
    };
    assert_eq!(conntrack, expected);
}

#[test]
fn the_mode_decides_what_is_not_said() {
    for (fields, addresses) in [
        ("mode: ''", NodePortAddresses::all()),
        ("mode: iptables", NodePortAddresses::all()),
        ("mode: nftables", NodePortAddresses::default()),
        ("mode: nftables\nnodePortAddresses: []", NodePortAddresses::default()),
    ] {
        assert_eq!(config(fields).node_port_addresses(), addresses, "{fields}");
    }
    for (fields, detector) in [
        ("", LocalDetector::AllNodes),
        ("detectLocalMode: ClusterCIDR", LocalDetector::Ranges(Vec::new())),
        ("detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8", LocalDetector::OwnNode),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}",
            LocalDetector::Bridge("cbr0".into()),
        ),
    ] {
        assert_eq!(config(fields).local_detector().expect("a mode"), detector, "{fields}");
    }
    let incomplete = config("detectLocalMode: BridgeInterface").local_detector();
    let text = incomplete.expect_err("no bridge").to_string();
    assert!(text.contains("detectLocal.bridgeInterface"), "{text}");
}

#[test]
fn what_has_no_effect_is_named_once() {
    for (fields, expected) in [
        ("mode: ipvs", "mode"),
        ("ipvs: {scheduler: rr}", "ipvs.scheduler"),
        ("ipvs: {strictARP: true, syncPeriod: 30s}", "ipvs.strictARP"),
        ("ipvs: {excludeCIDRs: [10.0.0.0/8]}", "ipvs.excludeCIDRs"),
        ("winkernel: {networkName: a}", "winkernel.networkName"),
        ("windowsRunAsService: true", "windowsRunAsService"),
        ("featureGates: {NFTablesProxyMode: true}", "featureGates.NFTablesProxyMode"),
        ("portRange: 1-2", "portRange"),
        ("bindAddressHardFail: true", "bindAddressHardFail"),
        ("enableProfiling: true", "enableProfiling"),
        ("showHiddenMetricsForVersion: '1.35'", "showHiddenMetricsForVersion"),
        ("clientConnection: {qps: 50}", "clientConnection.qps"),
        ("clientConnection: {burst: 100}", "clientConnection.burst"),
        ("clientConnection: {acceptContentTypes: a/b}", "clientConnection.acceptContentTypes"),
        ("logging: {verbosity: 4}", "logging.verbosity"),
        ("logging: {options: {json: {infoBufferSize: 1M}}}", "logging.options.json.infoBufferSize"),
        ("iptables: {minSyncPeriod: 10s}", "iptables.minSyncPeriod"),
        ("iptabels: {masqueradeAll: true}", "iptabels.masqueradeAll"),
        ("iptables: {masquerade: true}", "iptables.masquerade"),
        ("clusterCidr: 10.0.0.0/8", "clusterCidr"),
    ] {
        let (_, warnings) = read_text(&format!("{HEADER}{fields}\n")).expect(fields);
        let named: Vec<_> = warnings.iter().map(|warning| warning.field.as_str()).collect();
        assert_eq!(named, [expected], "{fields}");
        assert!(!warnings[0].reason.is_empty());
    }
}

#[test]
fn wrong_values_are_named_with_their_file_and_field() {
    for (fields, field, value) in [
        ("mode: userspace", "mode", "\"userspace\""),
        ("bindAddress: 10.0.0", "bindAddress", "\"10.0.0\""),
        ("healthzBindAddress: ':10256'", "healthzBindAddress", "\":10256\""),
        ("metricsBindAddress: 10.0.0.1:port", "metricsBindAddress", "\"10.0.0.1:port\""),
        ("clusterCIDR: 10.10.0.0", "clusterCIDR", "\"10.10.0.0\""),
        ("clusterCIDR: '10.0.0.0/8,11.0.0.0/8'", "clusterCIDR", "\"10.0.0.0/8,11.0.0.0/8\""),
        ("clusterCIDR: 10.0.0.0/33", "clusterCIDR", "\"10.0.0.0/33\""),
        ("detectLocalMode: Bridge", "detectLocalMode", "\"Bridge\""),
        ("nodePortAddresses: [primary, eth0]", "nodePortAddresses", "[\"primary\",\"eth0\"]"),
        ("nodePortAddresses: primary", "nodePortAddresses", "\"primary\""),
        ("configSyncPeriod: 15", "configSyncPeriod", "15"),
        ("configSyncPeriod: 15 minutes", "configSyncPeriod", "\"15 minutes\""),
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod", "\"-1s\""),
        ("iptables: {minSyncPeriod: 1m}", "iptables.minSyncPeriod", "\"1m\""),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit", "32"),
        ("iptables: {masqueradeAll: sure}", "iptables.masqueradeAll", "\"sure\""),
        ("iptables: 5", "iptables", "5"),
        ("oomScoreAdj: -1001", "oomScoreAdj", "-1001"),
        ("conntrack: {min: -1}", "conntrack.min", "-1"),
        ("conntrack: {udpTimeout: 30}", "conntrack.udpTimeout", "30"),
        ("hostnameOverride: 5", "hostnameOverride", "5"),
        ("logging: {format: xml}", "logging.format", "\"xml\""),
    ] {
        let error = read_text(&format!("{HEADER}{fields}\n")).expect_err(fields).to_string();
        assert!(error.contains(&format!("config.conf: {field}: {value}: ")), "{fields}: {error}");
    }
    for (text, named) in [
        ("kind: KubeProxyConfiguration\n", "apiVersion: \"\""),
        ("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: Pod\n", "kind: \"Pod\""),
        ("- a\n", "config.conf"),
        ("a: [\n", "config.conf"),
    ] {
        let error = read_text(text).expect_err(text).to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    assert!(matches!(read(Path::new("/nowhere")), Err(Error::Read { .. })));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = format!("{HEADER}mode: x\nclusterCIDR: y\noomScoreAdj: z\n");
    let Err(Error::Wrong { wrong, .. }) = read_text(&text) else { panic!("no error") };
    let fields: Vec<_> = wrong.iter().map(|remark| remark.field.as_str()).collect();
    assert_eq!(fields, ["mode", "clusterCIDR", "oomScoreAdj"]);
}

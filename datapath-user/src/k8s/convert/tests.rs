//! What objects become, field by field.

use super::*;
use crate::model::{Algorithm, Forwarding};
use serde_json::json;

fn read_service(spec: &serde_json::Value) -> Service {
    let object = json!({
        "metadata": {"namespace": "ns", "name": "a", "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"},
            {"ip": "192.0.2.3", "ipMode": "VIP"}, {"hostname": "lb.example.org"}, {"ip": "x"},
        ]}},
    });
    service(&serde_json::from_value(object).expect("a Service"))
}

#[test]
fn fields_of_a_service() {
    let service = read_service(&json!({
        "type": "LoadBalancer", "clusterIP": "10.200.1.1", "clusterIPs": ["10.200.1.1", "fd00::1"],
        "externalIPs": ["203.0.113.250", "010.0.0.7", "::ffff:1.2.3.4"],
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster",
        "loadBalancerSourceRanges": [" 10.1.2.3/8 ", "fd00::/64"],
        "sessionAffinity": "ClientIP", "healthCheckNodePort": 32000,
        "ports": [{"port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    }));
    assert_eq!(service.created, 60);
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.external_ips[1], IpAddr::from([10, 0, 0, 7]));
    assert_eq!(service.external_ips[2], IpAddr::from([1, 2, 3, 4]));
    assert_eq!(service.load_balancer_vips.len(), 2);
    assert_eq!(service.source_ranges[0].to_string(), "10.0.0.0/8");
    assert_eq!(service.affinity, Some(10800));
    assert!(service.is_external_local());
    assert_eq!(service.ports[1].protocol, Protocol::Udp);
}

#[test]
fn what_is_wrong_with_a_service_does_not_spoil_the_rest() {
    let service = read_service(&json!({
        "type": "Strange", "clusterIPs": ["nowhere", "10.200.1.1", "10.200.1.2"],
        "externalIPs": ["1.2.3", "203.0.113.250"], "loadBalancerSourceRanges": ["10.0.0.0/99"],
        "healthCheckNodePort": 99999,
        "ports": [
            {"port": 0}, {"port": 70000}, {"port": 80, "protocol": "ICMP"},
            {"port": 81, "nodePort": 99999}, {"port": 82},
        ],
    }));
    assert_eq!(service.kind, ServiceType::ClusterIp);
    assert_eq!(*service.cluster_ips, [IpAddr::from([10, 200, 1, 1])]);
    assert_eq!(service.external_ips.len(), 1);
    assert!(service.source_ranges.is_empty() && service.health_check_node_port.is_none());
    assert_eq!(service.ports.len(), 1, "the second of two unnamed ports is left out");
    assert_eq!(service.ports[0].node_port, None);
    for headless in [json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({"clusterIP": ""})]
    {
        assert!(read_service(&headless).cluster_ips.is_empty());
    }
}

#[test]
fn the_annotation_of_the_algorithm_is_read() {
    for (text, algorithm) in [
        ("random", Some(Algorithm::Random)),
        ("maglev", Some(Algorithm::Maglev)),
        ("Maglev", None),
        ("", None),
    ] {
        let object = json!({"metadata": {
            "namespace": "ns", "name": "a", "annotations": {"datapath/lb-algorithm": text},
        }, "spec": {}});
        let read = service(&serde_json::from_value(object).expect("a Service"));
        assert_eq!(read.algorithm, algorithm, "{text}");
    }
}

#[test]
fn the_annotation_of_the_forwarding_is_read() {
    for (text, forwarding) in [
        ("snat", Some(Forwarding::Snat)),
        ("dsr", Some(Forwarding::Dsr)),
        ("DSR", None),
        ("", None),
    ] {
        let object = json!({"metadata": {
            "namespace": "ns", "name": "a", "annotations": {"datapath/forwarding": text},
        }, "spec": {}});
        let read = service(&serde_json::from_value(object).expect("a Service"));
        assert_eq!(read.forwarding, forwarding, "{text}");
    }
}

fn read_slice(mut object: serde_json::Value) -> Option<Slice> {
    object["metadata"]["name"] = "s".into();
    object["metadata"]["namespace"] = "ns".into();
    slice(&serde_json::from_value(object).expect("a slice"), &mut Names::default())
}

#[test]
fn fields_of_a_slice() {
    let slice = read_slice(json!({
        "metadata": {
            "labels": {"kubernetes.io/service-name": "a"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:00:01Z"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 80}, {"port": 81}, {"name": "x", "port": 0}, {"name": "y"}],
        "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.9"], "nodeName": "n"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "terminating": true},
             "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]}},
            {"addresses": []}, {"addresses": ["fd00::1"]}, {"addresses": ["pod"]},
        ],
    }))
    .expect("a slice");
    assert_eq!(slice.service, ObjectName::namespaced("ns", "a"));
    assert_eq!((slice.ports.len(), slice.endpoints.len()), (1, 2));
    assert_eq!(slice.endpoints[0].conditions, Conditions::default());
    let expected = Conditions { ready: false, serving: true, terminating: true };
    assert_eq!(slice.endpoints[1].conditions, expected);
    assert_eq!((&*slice.endpoints[1].for_zones[0], &*slice.endpoints[1].for_nodes[0]), ("z", "n"));
    assert!(slice.trigger_time.is_some());
}

#[test]
fn slices_that_proxies_do_not_read() {
    let owner = json!({"kubernetes.io/service-name": "a"});
    let headless = json!({"kubernetes.io/service-name": "a", "service.kubernetes.io/headless": ""});
    for (labels, family) in
        [(&owner, "FQDN"), (&headless, "IPv4"), (&json!({}), "IPv4"), (&owner, "IPX")]
    {
        let object = json!({
            "metadata": {"labels": labels}, "addressType": family,
            "endpoints": [{"addresses": ["10.0.0.1"]}],
        });
        assert_eq!(read_slice(object), None);
    }
}

#[test]
fn fields_of_a_node() {
    let object = json!({
        "metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"},
                     "annotations": {"datapath/pod-blocks": "10.1.7.0/26, 10.2.0.9/32,"}},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"],
                 "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n"}, {"type": "ExternalIP", "address": "192.0.2.1"},
            {"type": "ExternalIP", "address": "2001:db8::1"},
            {"type": "InternalIP", "address": "172.18.0.2"},
            {"type": "InternalIP", "address": "172.19.0.2"},
        ]},
    });
    let node = node(&serde_json::from_value(object).expect("a Node"), &mut Names::default());
    assert_eq!(node.v4, Some([172, 18, 0, 2].into()));
    assert_eq!(*node.further_addresses, [IpAddr::from([172, 19, 0, 2])]);
    assert!(node.v6.is_some() && node.leaving && node.zone.as_deref() == Some("z"));
    let blocks: Vec<_> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.1.0.0/24", "fd00::/64", "10.1.7.0/26", "10.2.0.9/32"]);
}

#[test]
fn fields_of_a_pod() {
    let port = |ip: Option<&str>, port, target, protocol: Option<&str>| json!({"hostIP": ip, "hostPort": port, "containerPort": target, "protocol": protocol});
    let mut object = json!({
        "metadata": {
            "namespace": "ns", "name": "p", "creationTimestamp": "1970-01-01T00:01:00Z",
            "deletionTimestamp": "1970-01-01T00:02:00Z",
        },
        "spec": {
            "nodeName": "n",
            "containers": [{"name": "a", "ports": [
                port(None, 8080, 80, None), port(Some("127.0.0.1"), 8080, 81, Some("UDP")),
                port(None, 0, 82, None), port(Some("here"), 8081, 83, None),
                port(None, 70_000, 84, None), port(None, 8082, 85, Some("ICMP")),
            ]}],
            "initContainers": [
                {"name": "setup", "ports": [port(None, 9090, 90, None)]},
                {"name": "sidecar", "restartPolicy": "Always", "ports": [port(Some("::"), 9091, 91, None)]},
            ],
        },
        "status": {"phase": "Running", "podIP": "10.10.3.5",
                   "podIPs": [{"ip": "10.10.3.5"}, {"ip": "fd00::5"}]},
    });
    let read = |object: &serde_json::Value| {
        pod(&serde_json::from_value(object.clone()).expect("a Pod"), &mut Names::default())
    };
    let found = read(&object);
    assert_eq!((found.created, found.node.as_deref()), (60, Some("n")));
    assert!(found.deleting && !found.ended && !found.host_network);
    assert_eq!(*found.addresses, [IpAddr::from([10, 10, 3, 5]), "fd00::5".parse().expect("IPv6")]);
    let ports: Vec<_> = found
        .host_ports
        .iter()
        .map(|host| (host.address, host.port.get(), host.container_port.get(), host.protocol))
        .collect();
    let localhost = Some(IpAddr::from([127, 0, 0, 1]));
    let any = Some("::".parse().expect("IPv6"));
    assert_eq!(
        ports,
        [
            (None, 8080, 80, Protocol::Tcp),
            (localhost, 8080, 81, Protocol::Udp),
            (any, 9091, 91, Protocol::Tcp),
        ]
    );
    object["spec"]["hostNetwork"] = true.into();
    object["status"]["phase"] = "Failed".into();
    let found = read(&object);
    assert!(found.host_network && found.host_ports.is_empty() && found.ended);
}

#[test]
fn names_that_nobody_uses_are_forgotten() {
    let mut names = Names::default();
    let kept = names.share("kept");
    for number in 0..10_000 {
        names.share(&number.to_string());
    }
    assert!(names.known.len() < 200);
    assert!(Arc::ptr_eq(&kept, &names.share("kept")));
}

//! What objects become, field by field.

use super::*;
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
        "metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"],
                 "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n"}, {"type": "ExternalIP", "address": "192.0.2.1"},
            {"type": "ExternalIP", "address": "2001:db8::1"},
            {"type": "InternalIP", "address": "172.18.0.2"},
        ]},
    });
    let node = node(&serde_json::from_value(object).expect("a Node"), &mut Names::default());
    assert_eq!(node.v4, Some([172, 18, 0, 2].into()));
    assert!(node.v6.is_some() && node.leaving && node.zone.as_deref() == Some("z"));
    assert_eq!(node.pod_cidrs.len(), 2);
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

//! Upstream tests that say nothing about a proxy, or only about the means of one.

/// Each with the reason.
pub const NOT_APPLICABLE: &[(&str, &str)] = &[
    ("service.go: should provide secure master service", "only the API server"),
    ("service.go: should prevent NodePort collisions", "only the API server's allocator"),
    ("service.go: should check NodePort out-of-range", "only the API server's allocator"),
    ("service.go: should find a service from listing all namespaces", "only the API server"),
    ("service.go: should test the lifecycle of an Endpoint", "only the API server"),
    ("service.go: should complete a service status lifecycle", "only the API server"),
    ("service.go: should delete a collection of services", "only the API server"),
    ("networking.go: should provide Internet connection for containers", "no test of a proxy"),
    (
        "networking.go: should provide unchanging, static URL paths for kubernetes api services",
        "only the API server",
    ),
    (
        "networking.go: should recreate its iptables rules if they are deleted [Disruptive]",
        "ours has no rules; its maps are compared with what they must hold, as the suite `e2e` shows",
    ),
    (
        "conntrack.go: should drop INVALID conntrack entries [Privileged]",
        "ours follows no TCP windows, so no segment is ever INVALID; nftables mode drops none either",
    ),
    (
        "kube_proxy.go: should set TCP CLOSE_WAIT timeout [Privileged]",
        "a sysctl of netfilter's conntrack, which ours does without",
    ),
    (
        "kube_proxy.go: should update metric for tracking accepted packets destined for localhost nodeports",
        "a counter of iptables mode alone",
    ),
    (
        "localhost_nodeports.go: should allow a kubelet to pull from a registry on a localhost NodePort",
        "no kubelet in the lab; `node-port-localhost` has the connection",
    ),
    (
        "hostport.go: validates that there is no conflict between pods with same hostPort but different hostIP and protocol",
        "the portmap plugin's part, not kube-proxy's; ours has it in the suite `e2e` (`host_port`)",
    ),
    (
        "localhost_nodeports.go: should spread over the endpoints of all nodes, should have session \
         affinity",
        "`node-port-localhost` has them; affinity is by the client's address whatever the frontend",
    ),
    (
        "service_cidrs.go: should create Services and serve on different Service CIDRs",
        "`service-range-added` has it, and what becomes of the addresses that no Service has",
    ),
    ("dual_stack.go: all", "every case of this table runs over both families"),
    (
        "funny_ips.go: should be able to use a Service with a leading-zero IPv4 address",
        "only how the API server reads addresses: it stores none with leading zeros any more",
    ),
    ("service_latency.go: should not be very high", "measures the control plane"),
    (
        "endpointslice.go, endpointslicemirroring.go, endpoints.go: controllers",
        "no test of a proxy",
    ),
    ("proxy.go: all", "the API server's own proxy, not that of Services"),
    (
        "topology_hints.go: should distribute endpoints evenly",
        "the controller; `zone-hints` has the proxy's part",
    ),
    (
        "loadbalancer.go: all that asks a cloud for an address",
        "the addresses of `lb-address` stand for it",
    ),
];

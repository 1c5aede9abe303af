//! What the report says about itself, for all formats.

use crate::run::Run;

/// Machine and versions, as names and values.
pub(super) fn machine(run: &Run) -> Vec<(&'static str, String)> {
    let machine = &run.machine;
    vec![
        ("processor", format!("{}, {} CPUs", machine.processor, machine.cpus)),
        ("memory", format!("{} MiB", machine.memory_mib)),
        ("kernel", format!("Linux {}", machine.kernel)),
        ("datapath", machine.datapath.clone()),
        ("kube-proxy", machine.kube_proxy.clone()),
        ("time", format!("{} UTC", machine.time)),
    ]
}

/// How it was measured.
pub(super) fn method(run: &Run) -> String {
    let plan = run.settings.plan;
    if !run.in_lab {
        return format!(
            "All in one cluster that was there already: a client in a pod asks servers in two other pods \
             by their own addresses (\"direct\", through everything that the cluster does to the packets \
             of pods) and through Services with each as the only endpoint. The two take turns: {} ms after a \
             warm-up of a tenth of that, {} rounds with every other one backwards. Client and servers are \
             pinned to one CPU (number {}); whatever else is on the machine is where it was. Requests and \
             answers are one byte. Ratios are taken within a round; each figure is the median of its rounds, with \
             the 95 % interval of the sign test.",
            plan.millis, plan.rounds, run.machine.measured_cpu,
        );
    }
    format!(
        "Each variant has a four-node cluster of network namespaces to itself, and all are up at \
         once: \"direct\" is the pod's own address through bare kernel routing, without any proxy \
         or netfilter rule; kube-proxy is the real one; \"IP in IP\" is ours with packets between \
         nodes wrapped. Measures go round: each variant gets {} ms \
         after a warm-up of a tenth of that, then the next one, {} rounds with every other one \
         backwards. Client, servers and all packet processing are pinned to one CPU (number {}), \
         everything else is kept away from it; so the time of a request is also the processor time \
         that it takes. Requests and answers are one byte. In open loops the latency counts from \
         when a request was due. Frames through one node are made by the kernel where a network \
         card's driver would (BPF_PROG_TEST_RUN with live frames; for XDP native the driver's \
         program is run there), and are lost once the node has handed them to its device: only \
         that node takes time. While thousands of Services are added, the proxy of the client's \
         node is away and the control plane has all CPUs; then the proxy starts on a node \
         without any rule or map of it, on the CPUs that are not measured on. Ratios are taken \
         within a round; each figure is the median of its rounds, with the 95 % interval of the \
         sign test: a stall of the machine spoils a round, not the figure.",
        plan.millis, plan.rounds, run.machine.measured_cpu,
    )
}

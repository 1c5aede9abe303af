//! The two halves of a flow in the table: how one restores the other, and when both are swept out.

use crate::{
    TCP, UDP,
    frame::frame,
    node::{FROM_POD, FROM_UPLINK, Verdict::Redirect},
    reference, tell,
};
use datapath_common::{FlowFlags, Outcome};

#[test]
fn either_half_of_a_flow_restores_the_other() {
    let Some(mut node) = reference() else { return };
    let there = "10.10.3.5:40000 > 10.200.1.10:80 tcp A";
    let back = "10.10.1.7:8080 > 10.10.3.5:40000 tcp A";
    node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.10:80 tcp S"));
    for (evicted, awake) in [(false, (FROM_POD, there)), (true, (FROM_UPLINK, back))] {
        let flows = node.flows();
        assert_eq!(flows.len(), 2);
        for (tuple, mut flow) in flows {
            if flow.flags.has(FlowFlags::FORWARD) == evicted {
                node.remove_flow(&tuple);
            } else {
                flow.last_seen = 0;
                node.put_flow(tuple, flow);
            }
        }
        assert_eq!(node.flows().len(), 1);
        node.run(awake.0, &frame(awake.1));
        tell(
            &mut node,
            "restored",
            &[
                (FROM_POD, there, Redirect, "10.10.3.5:40000 > 10.10.1.7:8080 tcp A ttl=63"),
                (FROM_UPLINK, back, Redirect, "10.200.1.10:80 > 10.10.3.5:40000 tcp A ttl=63"),
            ],
        );
    }
    assert_eq!(node.count(Outcome::FlowRestored), 2);
}

#[test]
fn the_sweep_takes_what_has_idled_and_nothing_else() {
    let Some(mut node) = reference() else { return };
    node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.10:80 tcp S"));
    node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.12:53 udp"));
    assert_eq!(node.sweep(), 0);
    let flows = node.flows();
    for (tuple, mut flow) in flows.iter().copied() {
        if tuple.protocol == UDP && flow.flags.has(FlowFlags::FORWARD) {
            flow.last_seen -= 31_000_000_000;
            node.put_flow(tuple, flow);
        }
    }
    assert_eq!(node.sweep(), 0, "one half was used a moment ago");
    for (tuple, mut flow) in flows {
        if tuple.protocol == UDP {
            flow.last_seen -= 31_000_000_000;
            node.put_flow(tuple, flow);
        }
    }
    assert_eq!(node.sweep(), 2);
    assert!(node.flows().iter().all(|(tuple, _)| tuple.protocol == TCP));
}

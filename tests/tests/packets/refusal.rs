//! What nobody serves is refused, and what a policy forbids is dropped.

use crate::{
    TCP,
    frame::{describe, frame},
    node::{
        FROM_POD, FROM_UPLINK, TO_UPLINK,
        Verdict::{Drop, Redirect},
    },
    reference,
};
use datapath_common::{FrontendFlags, Outcome};

#[test]
fn what_no_endpoint_serves_is_refused() {
    let Some(mut node) = reference() else { return };
    let refusal = "icmp 3/3 about";
    for (hook, sent, expected) in [
        (FROM_POD, "10.10.3.5:40000 > 10.200.1.15:80 tcp S", format!("10.200.1.15 > 10.10.3.5 {refusal} 10.10.3.5:40000 > 10.200.1.15:80")),
        (FROM_POD, "10.10.3.5:40000 > 10.200.1.10:81 tcp S", format!("10.200.1.10 > 10.10.3.5 {refusal} 10.10.3.5:40000 > 10.200.1.10:81")),
        (FROM_POD, "10.10.3.5:40000 > 10.200.1.10:80 udp", format!("10.200.1.10 > 10.10.3.5 {refusal} 10.10.3.5:40000 > 10.200.1.10:80")),
        (FROM_UPLINK, "172.18.0.100:40000 > 10.200.1.15:80 tcp S", format!("10.200.1.15 > 172.18.0.100 {refusal} 172.18.0.100:40000 > 10.200.1.15:80")),
        (TO_UPLINK, "172.18.0.3:40000 > 10.200.1.15:80 tcp S", format!("10.200.1.15 > 172.18.0.3 {refusal} 172.18.0.3:40000 > 10.200.1.15:80")),
        (FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::15]:80 tcp S", "fd00:10:200:1::15 > fd00:10:10:3::5 icmp 1/4 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::15]:80".to_owned()),
        (FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:81 udp", "fd00:10:200:1::10 > fd00:10:10:3::5 icmp 1/4 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:81".to_owned()),
    ] {
        let (verdict, output) = node.run(hook, &frame(sent));
        assert_eq!((verdict, describe(&output)), (Redirect, expected), "{sent}");
    }
    assert_eq!(node.count(Outcome::RejectedNoEndpoint), 4);
    assert_eq!(node.count(Outcome::RejectedNoPort), 3);
}

#[test]
fn what_policy_forbids_is_dropped() {
    let Some(mut node) = reference() else { return };
    let frontend = ("10.200.1.15", 80, TCP);
    node.change_frontend(frontend, |frontend| frontend.flags = FrontendFlags::DROP_INSIDE);
    let from_outside = "172.18.0.100:40000 > 10.200.1.15:80 tcp S";
    let from_pod = "10.10.3.5:40000 > 10.200.1.15:80 tcp S";
    assert_eq!(node.run(FROM_POD, &frame(from_pod)).0, Drop, "no local endpoint");
    assert_eq!(node.run(FROM_UPLINK, &frame(from_outside)).0, Redirect, "outside is refused");
    assert_eq!(node.count(Outcome::DroppedNoLocalEndpoint), 1);

    node.change_frontend(("10.200.1.10", 80, TCP), |frontend| {
        frontend.flags = FrontendFlags::SOURCE_RANGES;
    });
    assert_eq!(node.run(FROM_POD, &frame("10.10.3.5:1 > 10.200.1.10:80 tcp S")).0, Drop);
    assert_eq!(node.count(Outcome::DroppedSourceRange), 1);

    let unallocated = "10.10.3.5:40000 > 10.200.1.99:80 tcp S";
    assert_eq!(node.run(FROM_POD, &frame(unallocated)).0, Drop);
    assert_eq!(node.count(Outcome::DroppedUnallocated), 1);
}

//! Transport headers: fragments without one, and checksums that are not as TCP has them.

use crate::{
    frame::{self, describe, frame, frame_with},
    node::{
        FROM_POD, FROM_UPLINK,
        Verdict::{Drop, Redirect},
    },
    reference,
};
use datapath_common::{Outcome, Protocol};

#[test]
fn fragments_follow_the_first_one() {
    let Some(mut node) = reference() else { return };
    let whole = frame_with("10.10.3.5:40000 > 10.200.1.12:53 udp", &[7; 64]);
    let (first, later) = frame::fragments(&whole, 32);
    let (verdict, _) = node.run(FROM_POD, &later);
    assert_eq!(verdict, Drop, "no port can be known");
    assert_eq!(node.count(Outcome::DroppedFragment), 1);
    for fragment in [&first, &later] {
        let (verdict, out) = node.run(FROM_POD, fragment);
        assert_eq!(verdict, Redirect);
        assert_eq!(out[30..34], [10, 10, 1, 7]);
    }
    let whole = frame_with("10.10.1.7:5353 > 10.10.3.5:40000 udp", &[7; 64]);
    let (first, later) = frame::fragments(&whole, 32);
    for fragment in [&first, &later] {
        let (verdict, out) = node.run(FROM_UPLINK, fragment);
        assert_eq!(verdict, Redirect);
        assert_eq!(out[26..30], [10, 200, 1, 12]);
    }
}

#[test]
fn sctp_keeps_a_right_checksum() {
    let Some(mut node) = reference() else { return };
    node.service(20, ("10.200.1.20", 132, Protocol::SCTP), &[("10.10.1.7", 38_412)]);
    let (verdict, out) = node.run(FROM_POD, &frame("10.10.3.5:40000 > 10.200.1.20:132 sctp"));
    assert_eq!(verdict, Redirect);
    assert_eq!(describe(&out), "10.10.3.5:40000 > 10.10.1.7:38412 sctp ttl=63");
    let (_, out) = node.run(FROM_UPLINK, &frame("10.10.1.7:38412 > 10.10.3.5:40000 sctp"));
    assert_eq!(describe(&out), "10.200.1.20:132 > 10.10.3.5:40000 sctp ttl=63");
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let Some(mut node) = reference() else { return };
    let mut bare = frame("10.10.3.5:40000 > 10.200.1.12:53 udp");
    bare[14 + 20 + 6..14 + 20 + 8].fill(0);
    let (_, out) = node.run(FROM_POD, &bare);
    assert_eq!(describe(&out), "10.10.3.5:40000 > 10.10.1.7:5353 udp no-checksum ttl=63");
}

//! No packet, however short or broken, crashes a program or is rewritten wrongly.

use crate::{
    frame::{describe, frame, icmp_error},
    node::{FROM_POD, FROM_UPLINK, TO_POD, TO_UPLINK, Verdict},
    reference,
};

const HOOKS: [&str; 4] = [FROM_POD, FROM_UPLINK, TO_POD, TO_UPLINK];

/// One frame of every shape that the programs tell apart.
fn shapes() -> Vec<Vec<u8>> {
    let mut shapes: Vec<_> = [
        "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
        "10.10.3.5:40000 > 10.200.1.12:53 udp",
        "10.10.3.5 > 10.200.1.10 icmp 8/0",
        "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp S",
        "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::12]:53 udp",
        "10.10.3.5:40000 > 10.200.1.15:80 tcp S",
        "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::15]:80 tcp S",
    ]
    .into_iter()
    .map(frame)
    .collect();
    let quoted = frame("10.10.3.5:40000 > 10.10.1.7:8080 tcp A");
    shapes.push(icmp_error("10.10.1.7", "10.10.3.5", "3/3", &quoted));
    let quoted = frame("[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp A");
    shapes.push(icmp_error("fd00:10:10:1::7", "fd00:10:10:3::5", "1/4", &quoted));
    shapes
}

#[test]
fn every_prefix_of_every_shape_is_left_to_the_stack() {
    let Some(mut node) = reference() else { return };
    for whole in shapes() {
        // The kernel hands nothing to a program that is shorter than an Ethernet header.
        for length in 15..whole.len() {
            for hook in HOOKS {
                if let Some(result) = node.try_run(hook, &whole[..length]) {
                    assert_eq!(result, (Verdict::Next, whole[..length].to_vec()), "{hook}");
                }
            }
        }
    }
}

#[test]
fn a_cut_transport_header_is_never_translated() {
    let Some(mut node) = reference() else { return };
    for whole in shapes() {
        let (header, transport) =
            if whole[14] >> 4 == 4 { (20, whole[23]) } else { (40, whole[20]) };
        let complete = match transport {
            6 => 20,
            _ => 8,
        };
        for length in 14 + header..14 + header + complete {
            let mut cut = whole[..length].to_vec();
            let ip_length = if header == 20 { length - 14 } else { length - 54 } as u16;
            let at = if header == 20 { 16 } else { 18 };
            cut[at..at + 2].copy_from_slice(&ip_length.to_be_bytes());
            for hook in HOOKS {
                let Some((verdict, out)) = node.try_run(hook, &cut) else { continue };
                let addresses = if header == 20 { 26..34 } else { 22..54 };
                assert!(
                    verdict == Verdict::Drop || out[addresses.clone()] == cut[addresses],
                    "{hook} translated a stump of {length} bytes"
                );
            }
        }
    }
}

#[test]
fn broken_headers_are_not_translated() {
    let Some(mut node) = reference() else { return };
    let good = frame("10.10.3.5:40000 > 10.200.1.10:80 tcp S");
    for (title, offset, value) in
        [("version 5", 14, 0x55), ("header of 16 bytes", 14, 0x44), ("version 0", 14, 0x05)]
    {
        let mut broken = good.clone();
        broken[offset] = value;
        for hook in HOOKS {
            if let Some((_, out)) = node.try_run(hook, &broken) {
                assert_eq!(out, broken, "{title} at {hook}");
            }
        }
    }
    // IP options: the transport header lies deeper, and is found there.
    let options = crate::frame::with_options(&good);
    let (verdict, out) = node.run(FROM_POD, &options);
    assert_eq!(verdict, Verdict::Redirect);
    assert_eq!(describe(&out), "10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63");
}

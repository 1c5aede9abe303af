//! ICMP errors about packets that were translated.

use crate::{
    SAME,
    frame::{describe, frame, icmp_error},
    node::{
        FROM_POD, FROM_UPLINK, TO_POD,
        Verdict::{Next, Redirect},
    },
    reference, tell,
};
use datapath_common::Outcome;

#[test]
fn icmp_errors_speak_of_what_their_receiver_sent() {
    let Some(mut node) = reference() else { return };
    tell(
        &mut node,
        "open the flows",
        &[
            (FROM_POD, "10.10.3.5:40000 > 10.200.1.10:80 tcp S", Redirect, ""),
            (FROM_POD, "10.10.3.5:40000 > 10.200.1.12:53 udp", Redirect, ""),
            (FROM_POD, "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp S", Redirect, ""),
            (FROM_UPLINK, "172.18.0.100:40000 > 10.200.1.11:80 tcp S", Redirect, ""),
        ],
    );
    for (title, hook, from, to, kind, quoted, verdict, expected) in [
        (
            "too big, from a router: through the stack",
            FROM_UPLINK,
            "172.18.0.9",
            "10.10.3.5",
            "3/4",
            "10.10.3.5:40000 > 10.10.1.7:8080 tcp A",
            Next,
            SAME,
        ),
        (
            "and translated at the pod",
            TO_POD,
            "172.18.0.9",
            "10.10.3.5",
            "3/4",
            "10.10.3.5:40000 > 10.10.1.7:8080 tcp A",
            Next,
            "172.18.0.9 > 10.10.3.5 icmp 3/4 about 10.10.3.5:40000 > 10.200.1.10:80",
        ),
        (
            "unreachable, from the backend itself",
            FROM_UPLINK,
            "10.10.1.7",
            "10.10.3.5",
            "3/3",
            "10.10.3.5:40000 > 10.10.1.7:5353 udp",
            Redirect,
            "10.200.1.12 > 10.10.3.5 icmp 3/3 about 10.10.3.5:40000 > 10.200.1.12:53 ttl=63",
        ),
        (
            "from the client, about an answer",
            FROM_POD,
            "10.10.3.5",
            "10.200.1.12",
            "3/3",
            "10.200.1.12:53 > 10.10.3.5:40000 udp",
            Redirect,
            "10.10.3.5 > 10.10.1.7 icmp 3/3 about 10.10.1.7:5353 > 10.10.3.5:40000 ttl=63",
        ),
        (
            "IPv6, from a router",
            TO_POD,
            "fc00:f853:ccd:e793::9",
            "fd00:10:10:3::5",
            "2/0",
            "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp A",
            Next,
            "fc00:f853:ccd:e793::9 > fd00:10:10:3::5 icmp 2/0 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80",
        ),
        (
            "IPv6, from the backend itself",
            FROM_UPLINK,
            "fd00:10:10:1::7",
            "fd00:10:10:3::5",
            "1/4",
            "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp A",
            Redirect,
            "fd00:10:200:1::10 > fd00:10:10:3::5 icmp 1/4 about [fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 ttl=63",
        ),
        (
            "about no flow of ours",
            FROM_UPLINK,
            "10.10.1.7",
            "10.10.3.5",
            "3/3",
            "10.10.3.5:1 > 10.10.1.7:2 udp",
            Redirect,
            "10.10.1.7 > 10.10.3.5 icmp 3/3 about 10.10.3.5:1 > 10.10.1.7:2 ttl=63",
        ),
    ] {
        let input = icmp_error(from, to, kind, &frame(quoted));
        let (actual, output) = node.run(hook, &input);
        let expected = if expected == SAME { describe(&input) } else { expected.to_owned() };
        assert_eq!((actual, describe(&output)), (verdict, expected), "{title}");
    }
    assert_eq!(node.count(Outcome::IcmpTranslated), 5);
}

//! Which way packets go, and what they look like then: to Services, between pods, and through the stack.

use crate::{
    SAME, Step,
    frame::frame,
    node::{
        FROM_POD, FROM_UPLINK, TO_POD, TO_UPLINK,
        Verdict::{Next, Redirect},
    },
    reference, tell,
};
use datapath_common::ConfigFlags;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn packets_find_their_way() {
    let stories: &[(&str, &[Step<'_>])] = &[
        (
            "pod to a ClusterIP with a backend on another node",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
                    Redirect,
                    "10.200.1.10:80 > 10.10.3.5:40000 tcp SA ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.10:80 tcp A",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp A ttl=63",
                ),
            ],
        ),
        (
            "the same in IPv6",
            &[
                (
                    FROM_POD,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::10]:80 tcp S",
                    Redirect,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:10:1::7]:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "[fd00:10:10:1::7]:8080 > [fd00:10:10:3::5]:40000 tcp SA",
                    Redirect,
                    "[fd00:10:200:1::10]:80 > [fd00:10:10:3::5]:40000 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "pod to a ClusterIP with a backend on its own node",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.11:80 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.3.6:8080 tcp S ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.6:8080 > 10.10.3.5:40000 tcp SA",
                    Redirect,
                    "10.200.1.11:80 > 10.10.3.5:40000 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "datagrams, both families",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.12:53 udp",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:5353 udp ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:5353 > 10.10.3.5:40000 udp",
                    Redirect,
                    "10.200.1.12:53 > 10.10.3.5:40000 udp ttl=63",
                ),
                (
                    FROM_POD,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:200:1::12]:53 udp",
                    Redirect,
                    "[fd00:10:10:3::5]:40000 > [fd00:10:10:3::6]:5353 udp ttl=63",
                ),
                (
                    FROM_POD,
                    "[fd00:10:10:3::6]:5353 > [fd00:10:10:3::5]:40000 udp",
                    Redirect,
                    "[fd00:10:200:1::12]:53 > [fd00:10:10:3::5]:40000 udp ttl=63",
                ),
            ],
        ),
        (
            "a backend in the host network of the client's node: the stack delivers, the pod's side translates back",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.13:443 tcp S",
                    Next,
                    "10.10.3.5:40000 > 172.18.0.3:6443 tcp S",
                ),
                (
                    TO_POD,
                    "172.18.0.3:6443 > 10.10.3.5:40000 tcp SA",
                    Next,
                    "10.200.1.13:443 > 10.10.3.5:40000 tcp SA",
                ),
            ],
        ),
        (
            "a backend in the host network of another node goes through the stack both ways",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.200.1.17:443 tcp S",
                    Next,
                    "10.10.3.5:40000 > 172.18.0.2:6443 tcp S",
                ),
                (FROM_UPLINK, "172.18.0.2:6443 > 10.10.3.5:40000 tcp SA", Next, SAME),
                (
                    TO_POD,
                    "172.18.0.2:6443 > 10.10.3.5:40000 tcp SA",
                    Next,
                    "10.200.1.17:443 > 10.10.3.5:40000 tcp SA",
                ),
            ],
        ),
        (
            "a host process and a pod of its node: the answer comes in by the uplink",
            &[
                (
                    TO_UPLINK,
                    "172.18.0.3:40000 > 10.200.1.11:80 tcp S",
                    Redirect,
                    "172.18.0.3:40000 > 10.10.3.6:8080 tcp S ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.6:8080 > 172.18.0.3:40000 tcp SA",
                    Redirect,
                    "10.200.1.11:80 > 172.18.0.3:40000 tcp SA",
                ),
            ],
        ),
        (
            "a host process and a pod of another node",
            &[
                (
                    TO_UPLINK,
                    "172.18.0.3:40000 > 10.200.1.10:80 tcp S",
                    Redirect,
                    "172.18.0.3:40000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:8080 > 172.18.0.3:40000 tcp SA",
                    Next,
                    "10.200.1.10:80 > 172.18.0.3:40000 tcp SA",
                ),
            ],
        ),
        (
            "pods talk to each other untouched",
            &[
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.10.3.6:8080 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.3.6:8080 tcp S ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp S",
                    Redirect,
                    "10.10.3.5:40000 > 10.10.1.7:8080 tcp S ttl=63",
                ),
                (
                    FROM_UPLINK,
                    "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
                    Redirect,
                    "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA ttl=63",
                ),
                (
                    FROM_POD,
                    "[fd00:10:10:3::5]:1 > [fd00:10:10:1::7]:2 udp",
                    Redirect,
                    "[fd00:10:10:3::5]:1 > [fd00:10:10:1::7]:2 udp ttl=63",
                ),
                (
                    FROM_POD,
                    "10.10.3.5 > 10.10.3.6 icmp 8/0",
                    Redirect,
                    "10.10.3.5 > 10.10.3.6 icmp 8/0 ttl=63",
                ),
            ],
        ),
        (
            "what the stack translates between pods, it carries both ways",
            &[
                (FROM_POD, "10.10.3.5:40000 > 172.18.0.3:8080 tcp S", Next, SAME),
                (TO_POD, "10.10.3.5:40000 > 10.10.3.6:80 tcp S", Next, SAME),
                (FROM_POD, "10.10.3.6:80 > 10.10.3.5:40000 tcp SA", Next, SAME),
                (
                    FROM_POD,
                    "10.10.3.6:80 > 10.10.3.5:40001 tcp SA",
                    Redirect,
                    "10.10.3.6:80 > 10.10.3.5:40001 tcp SA ttl=63",
                ),
            ],
        ),
        (
            "everything else is the stack's",
            &[
                (FROM_POD, "10.10.3.5:40000 > 1.1.1.1:443 tcp S", Next, SAME),
                (FROM_POD, "10.10.3.5:40000 > 172.18.0.3:22 tcp S", Next, SAME),
                (FROM_UPLINK, "172.18.0.100:40000 > 172.18.0.3:22 tcp S", Next, SAME),
                (FROM_UPLINK, "172.18.0.5:40000 > 10.10.3.5:80 tcp S", Next, SAME),
                (FROM_POD, "10.10.3.5:80 > 172.18.0.5:40000 tcp SA", Next, SAME),
                (TO_UPLINK, "172.18.0.3:40000 > 172.18.0.5:22 tcp S", Next, SAME),
                (TO_POD, "172.18.0.3:40000 > 10.10.3.5:80 tcp S", Next, SAME),
            ],
        ),
    ];
    let Some(mut node) = reference() else { return };
    for (title, steps) in stories {
        tell(&mut node, title, steps);
        for (tuple, _) in node.flows() {
            node.remove_flow(&tuple);
        }
    }
}

#[test]
fn without_routing_of_ours_the_stack_carries_and_we_translate() {
    let Some(mut node) = reference() else { return };
    node.configure(ConfigFlags::LOCAL_DETECTOR);
    tell(
        &mut node,
        "routing=none",
        &[
            (FROM_POD, "10.10.3.5:40000 > 10.10.3.6:8080 tcp S", Next, SAME),
            (
                FROM_POD,
                "10.10.3.5:40000 > 10.200.1.10:80 tcp S",
                Next,
                "10.10.3.5:40000 > 10.10.1.7:8080 tcp S",
            ),
            (FROM_UPLINK, "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA", Next, SAME),
            (
                TO_POD,
                "10.10.1.7:8080 > 10.10.3.5:40000 tcp SA",
                Next,
                "10.200.1.10:80 > 10.10.3.5:40000 tcp SA",
            ),
            (
                FROM_POD,
                "10.10.3.5:40001 > 10.200.1.11:80 tcp S",
                Next,
                "10.10.3.5:40001 > 10.10.3.6:8080 tcp S",
            ),
            (FROM_POD, "10.10.3.6:8080 > 10.10.3.5:40001 tcp SA", Next, SAME),
            (
                TO_POD,
                "10.10.3.6:8080 > 10.10.3.5:40001 tcp SA",
                Next,
                "10.200.1.11:80 > 10.10.3.5:40001 tcp SA",
            ),
        ],
    );
}

#[test]
fn a_packet_at_the_end_of_its_life_is_the_stacks() {
    let Some(mut node) = reference() else { return };
    let mut dying = frame("10.10.3.5:40000 > 10.10.1.7:80 tcp S");
    dying[14 + 8] = 1;
    assert_eq!(node.run(FROM_POD, &dying), (Next, dying));
}

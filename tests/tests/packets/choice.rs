//! Which of its backends a Service chooses.

use crate::{
    TCP,
    frame::{describe, frame},
    node::{FROM_POD, Node},
    reference,
};

#[test]
fn affinity_holds_while_the_backend_is_in_the_list() {
    let Some(mut node) = reference() else { return };
    let frontend = ("10.200.1.20", 80, TCP);
    node.service(20, frontend, &[("10.10.1.7", 80), ("10.10.1.8", 80), ("10.10.3.6", 80)]);
    node.change_frontend(frontend, |frontend| frontend.affinity = 10_800);
    let target = |node: &mut Node, port: u16| {
        let (_, out) =
            node.run(FROM_POD, &frame(&format!("10.10.3.5:{port} > 10.200.1.20:80 tcp S")));
        describe(&out).split_once(" > ").expect("a description").1.to_owned()
    };
    let first = target(&mut node, 1000);
    assert!((1001..1040).all(|port| target(&mut node, port) == first), "one client, one backend");
    node.service(20, frontend, &[("10.10.1.9", 80), ("10.10.1.9", 80), ("10.10.1.9", 80)]);
    node.clear_members();
    node.change_frontend(frontend, |frontend| frontend.affinity = 10_800);
    assert_eq!(target(&mut node, 2000), "10.10.1.9:80 tcp S ttl=63");
}

#[test]
fn the_choice_is_uniform() {
    let Some(mut node) = reference() else { return };
    node.service(
        20,
        ("10.200.1.20", 80, TCP),
        &[("10.10.1.1", 1), ("10.10.1.2", 2), ("10.10.1.3", 3), ("10.10.1.4", 4)],
    );
    let mut chosen = [0_u32; 5];
    for port in 10_000..14_000 {
        let (_, out) =
            node.run(FROM_POD, &frame(&format!("10.10.3.5:{port} > 10.200.1.20:80 tcp S")));
        chosen[usize::from(out[14 + 20 + 3])] += 1;
    }
    // Four standard deviations of a binomial distribution with n = 4,000 and p = 1/4.
    assert!(chosen[1..].iter().all(|count| count.abs_diff(1000) < 110), "{chosen:?}");
}

//! Packet in, packet out: every kernel program, run by `BPF_PROG_TEST_RUN` on the running kernel.

mod node;

use node::Node;

#[test]
fn every_program_passes_the_verifier() {
    let Some(node) = Node::load() else { return };
    for (name, instructions) in node.verified() {
        println!("{name:14} {instructions:8} instructions verified");
    }
}

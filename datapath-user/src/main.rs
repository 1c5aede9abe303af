//! The datapath binary.
fn main() {}

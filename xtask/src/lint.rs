//! Lints of everything: the crates of this machine, and the kernel programs for their target.

use anyhow::Result;

use crate::setup::compiler::Compiler;
use crate::setup::{self, Need};
use crate::{build, process};

/// What is meant as it is in kernel programs.
const KERNEL_EXCEPTIONS: [&str; 4] = [
    // By value, keys and values of maps would be copied to the small stack.
    "clippy::needless_borrows_for_generic_args",
    // Programs are handed their context by value.
    "clippy::needless_pass_by_value",
    // Redirections act on the packet in hand, though the helpers are not given it.
    "clippy::unused_self",
    // Verdicts, and sizes for helpers, are i32.
    "clippy::cast_possible_wrap",
];

/// Runs clippy; a warning is an error.
///
/// # Errors
///
/// When there is a finding.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Need::Ebpf)?;
    let mut host = process::cargo();
    host.args(["clippy", "--all-targets", "--", "-D", "warnings"]);
    process::run(&mut host)?;
    if !Compiler::find().is_some_and(|compiler| compiler.has_clippy()) {
        eprintln!("    the compiler of the kernel programs has no clippy: they are not linted");
        return Ok(());
    }
    let mut kernel = build::ebpf_cargo("clippy")?;
    kernel.args(["--", "-D", "warnings"]);
    for lint in KERNEL_EXCEPTIONS {
        kernel.args(["-A", lint]);
    }
    process::run(&mut kernel)
}

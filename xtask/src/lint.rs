//! Lints of everything: the crates of this machine, and the kernel programs for their target.

use anyhow::Result;

use crate::setup::compiler::Compiler;
use crate::setup::{self, Need};
use crate::{build, process};

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
    // Keys and values are borrowed on purpose: by value they would be copied to the small stack.
    kernel.args(["--", "-D", "warnings", "-A", "clippy::needless_borrows_for_generic_args"]);
    process::run(&mut kernel)
}

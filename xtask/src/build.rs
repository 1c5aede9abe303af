//! Building the kernel programs and the binary that carries them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::compiler::Compiler;
use crate::setup::{self, Need, linker};
use crate::{paths, process};

/// Full debug information and `--btf` give the kernel types of maps and source lines for
/// verifier messages. The last flag lets the compiler copy and clear small values by itself: without
/// it each becomes a call to a loop over single bytes.
pub(crate) const EBPF_FLAGS: &str =
    "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order";

/// A cargo command for the kernel programs, up to the subcommand's own arguments.
///
/// # Errors
///
/// When set-up has not brought a compiler and a linker.
pub(crate) fn ebpf_cargo(subcommand: &str) -> Result<Command> {
    let compiler = Compiler::find().context("no compiler for BPF after set-up")?;
    let linker = linker::find().context("no bpf-linker after set-up")?;
    let mut path = vec![linker.parent().map(PathBuf::from).unwrap_or_default()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = compiler.cargo();
    command
        .env("PATH", std::env::join_paths(path)?)
        .env("RUSTFLAGS", EBPF_FLAGS)
        .args([subcommand, "--release"])
        .args(["--package", "datapath-ebpf", "--package", "datapath-bench-ebpf"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(paths::target().join("ebpf"));
    Ok(command)
}

/// Builds the kernel programs, with their diagnostics when `log` is set.
///
/// # Errors
///
/// When set-up or the compiler fails.
pub(crate) fn ebpf(log: bool) -> Result<()> {
    setup::ensure(Need::Ebpf)?;
    let mut command = ebpf_cargo("build")?;
    if log {
        command.args(["--features", "datapath-ebpf/log"]);
    }
    process::run(&mut command)
}

/// Builds the product: one static binary that carries the kernel programs. Returns where it is.
///
/// # Errors
///
/// When set-up or the compiler fails.
pub(crate) fn product(log: bool) -> Result<PathBuf> {
    ebpf(log)?;
    static_binary("datapath-user", "datapath")
}

/// Builds the load of the benchmark, to be run in containers. Returns where it is.
///
/// # Errors
///
/// When the compiler fails.
pub(crate) fn load() -> Result<PathBuf> {
    static_binary("datapath-bench", "bench-load")
}

/// Builds a binary that needs no library where it runs. Returns where it is.
fn static_binary(package: &str, name: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // With an explicit target the flag does not reach procedural macros, which cannot be static.
    let mut command = process::cargo();
    command
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("DATAPATH_EBPF_OBJECT", paths::ebpf_object())
        .args(["build", "--release", "--package", package, "--bin", name, "--target", &target]);
    process::run(&mut command)?;
    Ok(paths::cargo_target().join(target).join("release").join(name))
}

/// Where [`for_tests`] leaves the binary.
pub(crate) fn test_binary() -> PathBuf {
    paths::cargo_target().join("debug/datapath")
}

/// Builds all programs for tests and the lab, in the profile that the tests are built in. Not by
/// package: see the tests.
///
/// # Errors
///
/// When set-up or the compiler fails.
pub(crate) fn for_tests() -> Result<()> {
    ebpf(false)?;
    let mut command = process::cargo();
    command.args(["build", "--bins"]);
    process::run(&mut command)
}

//! The lab, for people. The program itself is `lab` of the package `datapath-tests`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Need};
use crate::{build, paths, process};

/// Becomes the lab's own command line: `up`, `down`, `status`, `exec NODE|POD -- CMD`, `tour`. A
/// Ctrl-C and the exit code are then the lab's, without a parent in between.
///
/// # Errors
///
/// When set-up or a build fails.
pub(crate) fn become_lab(arguments: &[String]) -> Result<()> {
    setup::ensure(Need::Lab)?;
    let binary = build::for_tests()?;
    let mut lab = Command::new("cargo");
    lab.current_dir(paths::root()).args(["build", "--package", "datapath-tests", "--bins"]);
    process::run(&mut lab)?;
    let program = paths::cargo_target().join("debug/lab");
    let error = Command::new(&program)
        .args(arguments)
        .env(crate::test::BINARY_VARIABLE, binary)
        .env(paths::CONTROL_PLANE_VARIABLE, paths::control_plane())
        .exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

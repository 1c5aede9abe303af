//! The lab, for people. The program itself is `lab` of the package `datapath-tests`.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Need};
use crate::{build, paths, process};

/// Runs the lab's own command line: `up`, `down`, `status`, `exec NODE|POD -- CMD`, `tour`.
///
/// # Errors
///
/// When set-up or a build fails, or the lab's command does.
pub(crate) fn dispatch(arguments: &[String]) -> Result<()> {
    setup::ensure(Need::Lab)?;
    let binary = build::for_tests()?;
    process::run(
        Command::new("cargo")
            .current_dir(paths::root())
            .args(["run", "--quiet", "--package", "datapath-tests", "--bin", "lab", "--"])
            .args(arguments)
            .env(crate::test::BINARY_VARIABLE, binary)
            .env(paths::CONTROL_PLANE_VARIABLE, paths::control_plane()),
    )
}

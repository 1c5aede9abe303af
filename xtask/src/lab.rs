//! The lab, for people, and the conformance matrix. The programs themselves are `lab` and
//! `conformance` of the package `datapath-tests`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Need};
use crate::{build, paths};

/// Becomes the lab's own command line: `up`, `down`, `status`, `exec NODE|POD -- CMD`, `tour`. A
/// Ctrl-C and the exit code are then the lab's, without a parent in between.
///
/// # Errors
///
/// When set-up or a build fails.
pub(crate) fn become_lab(arguments: &[String]) -> Result<()> {
    let starts =
        arguments.first().is_some_and(|command| ["up", "tour"].contains(&command.as_str()));
    // What looks at a running lab is quick, and prints nothing but what it was asked for.
    if starts || !program("lab").exists() {
        prepare()?;
    }
    become_program("lab", arguments)
}

/// Becomes the conformance matrix: `[--proxy NAME]... [FILTER] [--write]`.
///
/// # Errors
///
/// When set-up or a build fails.
pub(crate) fn become_conformance(arguments: &[String]) -> Result<()> {
    prepare()?;
    become_program("conformance", arguments)
}

fn program(name: &str) -> PathBuf {
    paths::cargo_target().join("debug").join(name)
}

fn become_program(name: &str, arguments: &[String]) -> Result<()> {
    let program = program(name);
    let error = Command::new(&program)
        .args(arguments)
        .env(crate::test::BINARY_VARIABLE, build::test_binary())
        .env(paths::CONTROL_PLANE_VARIABLE, paths::control_plane())
        .exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

fn prepare() -> Result<()> {
    setup::ensure(Need::Lab)?;
    build::for_tests()
}

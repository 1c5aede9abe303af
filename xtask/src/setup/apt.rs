//! Debian and Ubuntu packages.

use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use anyhow::Result;

use crate::check;
use crate::process;

/// A mirror may be slow; a hanging one must not block for ever.
const LIMIT: Duration = Duration::from_mins(20);

static UPDATED: Once = Once::new();

/// Installs packages, after reading the package lists once.
///
/// # Errors
///
/// When not root, when there is no apt, or when apt fails.
pub(crate) fn install(step: &str, packages: &[String]) -> Result<()> {
    check::apt(packages)?;
    update();
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"])
        .args(packages);
    process::logged(&format!("installing {step}"), "apt-install", &mut command, LIMIT)
}

/// The version that would be installed, when there is one.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = process::output(Command::new("apt-cache").args(["policy", package])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

/// The names of the packages that match a pattern.
pub(crate) fn names(pattern: &str) -> Vec<String> {
    process::output(Command::new("apt-cache").args(["pkgnames", pattern]))
        .map(|names| names.lines().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Reads the package lists, once per run. A failure shows when the installation fails, and only
/// matters then: the lists may be there already.
pub(crate) fn update() {
    UPDATED.call_once(|| {
        let mut command = Command::new("apt-get");
        command.args(["update", "-q", "-o", "DPkg::Lock::Timeout=300"]);
        if let Err(error) =
            process::logged("reading the package lists", "apt-update", &mut command, LIMIT)
        {
            eprintln!("    {error:#}");
        }
    });
}

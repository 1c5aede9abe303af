//! The virtual machine of the interop tests: QEMU, and the distribution's kernel and busybox, which are
//! unpacked, never installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt;
use crate::{paths, process};

/// Names [`folder`] to the tests.
pub(crate) const VARIABLE: &str = "DATAPATH_VM";

/// The emulation needs no support by the processor.
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// All that is in the machine besides its kernel.
const BUSYBOX: &str = "busybox-static";

/// Names the package of the newest kernel.
const KERNEL: &str = "linux-image-amd64";

const LIMIT: Duration = Duration::from_mins(10);

/// Where the packages are unpacked.
pub(crate) fn folder() -> PathBuf {
    paths::target().join("vm/root")
}

/// Installs and fetches what is not there yet.
///
/// # Errors
///
/// When apt has no such packages, or the machine is no x86-64.
pub(crate) fn ensure() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machine is an x86-64");
    }
    let (command, package) = QEMU;
    if paths::find_command(command).is_none() {
        apt::install("a virtual machine", &[package.to_owned()])?;
    }
    if folder().exists() { Ok(()) } else { fetch() }
}

fn fetch() -> Result<()> {
    apt::update();
    let depends = process::output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let kernel = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("apt offers no {KERNEL}"))?;
    let work = paths::target().join("vm");
    // What an earlier attempt has left.
    fs::remove_dir_all(&work).ok();
    fs::create_dir_all(&work)?;
    let mut download = Command::new("apt-get");
    download.current_dir(&work).args(["download", "-q", BUSYBOX]);
    download.arg(format!("linux-image-{kernel}"));
    let step = "downloading a kernel for the virtual machine";
    process::logged(step, "vm-kernel", &mut download, LIMIT)?;
    let unpacked = work.join("unpacked");
    for file in fs::read_dir(&work)?.flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked))?;
            fs::remove_file(&file)?;
        }
    }
    // Only what is whole gets the name that is looked for.
    fs::rename(&unpacked, folder())?;
    Ok(())
}

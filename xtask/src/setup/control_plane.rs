//! The lab's control plane: etcd and Kubernetes, built from their Go modules (the module files in
//! `tests/control-plane/` pin every version), or ready binaries from `DATAPATH_CONTROL_PLANE`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{paths, process};

/// The version the binaries report; the same as in `tests/control-plane/kubernetes/go.mod`.
const KUBERNETES: &str = "v1.36.3";

/// Binary, module folder, package.
const BINARIES: [(&str, &str, &str); 4] = [
    ("etcd", "etcd", "."),
    ("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
];

/// Two busy cores need ten minutes from nothing; a slow machine may need several times that.
const LIMIT: Duration = Duration::from_hours(1);

/// The binaries that are not there yet.
pub(crate) fn missing() -> Vec<&'static str> {
    let folder = paths::control_plane();
    BINARIES.iter().map(|(name, ..)| *name).filter(|name| !folder.join(name).is_file()).collect()
}

/// Checks that they can be built.
pub(crate) fn check() -> Result<()> {
    let variable = paths::CONTROL_PLANE_VARIABLE;
    if env::var_os(variable).is_some() {
        bail!(
            "{variable} names {}, which lacks: {}. Put them there, or unset it to build them",
            paths::control_plane().display(),
            missing().join(", ")
        );
    }
    if paths::find_command("go").is_none() {
        bail!(
            "no Go: the lab's control plane ({}) is built with it. Install Go 1.26 or newer from \
             https://go.dev/dl and put it into PATH, or set {variable} to a folder with these \
             binaries of Kubernetes {KUBERNETES}. Nothing has been changed",
            missing().join(", ")
        );
    }
    Ok(())
}

/// Builds them.
///
/// # Errors
///
/// When Go fails: no network, or no memory.
pub(crate) fn build(binaries: &[&str]) -> Result<()> {
    let folder = paths::control_plane();
    fs::create_dir_all(&folder)?;
    for (name, module, package) in BINARIES.iter().filter(|(name, ..)| binaries.contains(name)) {
        let module = paths::root().join("tests/control-plane").join(module);
        // Built beside its place and moved there: what is there is always complete.
        let unfinished = folder.join(format!(".{name}"));
        let mut command = go_build(&module, &unfinished, package);
        process::logged(&format!("building {name}"), name, &mut command, LIMIT)?;
        fs::rename(&unfinished, folder.join(name))?;
    }
    Ok(())
}

fn go_build(module: &Path, output: &Path, package: &str) -> Command {
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor=36 \
         -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
    );
    let mut command = Command::new("go");
    command
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .args(["build", "-mod=mod", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(output)
        .arg(package);
    command
}

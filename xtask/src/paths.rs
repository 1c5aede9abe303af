//! Where things are. Everything that is built, downloaded or logged lives under `target/`.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// The cache of tools, logs and kernel programs; never moved by `CARGO_TARGET_DIR`, because the
/// other crates look for the kernel programs here.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Where cargo puts what it builds for this machine.
pub(crate) fn cargo_target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(target, PathBuf::from)
}

/// The kernel programs, as `build-ebpf` leaves them.
pub(crate) fn ebpf_object() -> PathBuf {
    target().join("ebpf/bpfel-unknown-none/release/datapath-ebpf")
}

/// Tools built here (bpf-linker).
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The lab's control plane: the folder that `DATAPATH_CONTROL_PLANE` names, else our own.
pub(crate) fn control_plane() -> PathBuf {
    env::var_os(CONTROL_PLANE_VARIABLE)
        .map_or_else(|| target().join("control-plane"), PathBuf::from)
}

/// Names a folder with ready binaries of the control plane.
pub(crate) const CONTROL_PLANE_VARIABLE: &str = "DATAPATH_CONTROL_PLANE";

/// Output of the long steps.
pub(crate) fn logs() -> PathBuf {
    target().join("logs")
}

/// Looks a command up in `PATH`, and in the folders that a plain user's `PATH` lacks.
pub(crate) fn find_command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

//! Leaves the node as if we had never been there.

use super::{
    Error, Options,
    attach::{devices, entries, remove_filters},
    kernel_routes,
    link::remove_link,
    loopback,
    pin::{MOUNT_SOURCE, OWN_CGROUP2, mounts},
    reader::Reader,
};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Removes every program, link, map, filter, route, folder and mount of ours from this network namespace and
/// from [`Options::bpffs`], whether or not an agent runs. Pins of other versions go too. Returns a
/// line for each thing removed.
pub fn cleanup(options: &Options) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    // Without readable maps there is no agent of this version to clean up after.
    if let Ok(Some(config)) = Reader::open(&options.bpffs).and_then(|reader| reader.config()) {
        loopback::undo(&config)?;
    }
    let versions = entries(&options.bpffs)?.into_iter().filter(|path| is_version(path));
    let versions: Vec<_> = versions.collect();
    // First of all nothing must run any more, so that maps go with a datapath that is not in use.
    for version in &versions {
        for pin in entries(&version.join("links"))? {
            if remove_link(&pin)? {
                lines.push(format!("detached and removed the link {}", pin.display()));
            }
        }
    }
    for (index, name) in devices()? {
        for program in remove_filters(index, &name)? {
            lines.push(format!("removed the filter {program} from the device {name}"));
        }
    }
    for range in kernel_routes::remove_all()? {
        lines.push(format!("removed the route to {range}"));
    }
    for version in &versions {
        for pin in entries(&version.join("maps"))? {
            fs::remove_file(&pin).map_err(Error::system(format!("removing {}", pin.display())))?;
            lines.push(format!("removed the map {}", pin.display()));
        }
        for folder in [&version.join("links"), &version.join("maps"), version] {
            remove_folder(folder)?;
        }
    }
    remove_folder(&options.bpffs)?;
    unmount(options, &mut lines)?;
    Ok(lines)
}

/// Whether this is the folder of a version: `v` and a number.
fn is_version(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Removes a folder if it is there, is empty, and nothing is mounted on it.
fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir(folder) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(Error::system(format!("removing {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Whether a BPF file system holds nothing but the two files that the kernel puts there.
fn is_unused(root: &Path) -> Result<bool, Error> {
    let by_kernel = |path: &PathBuf| path.ends_with("maps.debug") || path.ends_with("progs.debug");
    Ok(entries(root)?.iter().all(by_kernel))
}

/// Unmounts what we mounted: the BPF file system, unless others have put something there, and the
/// cgroup2 hierarchy, which stays in being elsewhere.
fn unmount(options: &Options, lines: &mut Vec<String>) -> Result<(), Error> {
    for mount in mounts()?.into_iter().filter(|mount| mount.source == MOUNT_SOURCE) {
        let target = &mount.target;
        let ours = match mount.kind.as_str() {
            "bpf" => options.bpffs.starts_with(target) && is_unused(target)?,
            "cgroup2" => target == Path::new(OWN_CGROUP2),
            _ => false,
        };
        if !ours {
            continue;
        }
        match umount2(target, MntFlags::MNT_DETACH) {
            // In a container that may not: the empty file system stays, as every node has one.
            Err(Errno::EPERM) => continue,
            result => result.map_err(|error| {
                Error::system(format!("unmounting {}", target.display()))(error.into())
            })?,
        }
        lines.push(format!("unmounted {}", target.display()));
        if !target.starts_with("/sys") {
            remove_folder(target)?;
        }
        if mount.kind == "cgroup2"
            && let Some(parent) = target.parent()
        {
            remove_folder(parent)?;
        }
    }
    Ok(())
}

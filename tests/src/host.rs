//! What the lab needs of the machine it runs on, and the clearing up after a lab.

use anyhow::{Context as _, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
    unistd::geteuid,
};
use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Where each lab has its folder.
pub const LABS: &str = "/run/datapath-lab";
/// Held by the keeper of a lab as long as the lab may live.
const LOCK: &str = "lock";
/// How long the processes of a lab may take to die.
const GRACE: Duration = Duration::from_secs(5);

/// Why the lab cannot run on this machine, if it cannot.
pub fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some("the lab needs root (network namespaces, cgroups, eBPF)".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    cgroup_mount().err().map(|error| error.to_string())
}

/// The mount point of cgroup2.
pub fn cgroup_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("cgroup2 is not mounted (mount -t cgroup2 none /mnt/cgroup2)")
}

/// The cgroup that holds everything of the lab `id`.
pub fn lab_cgroup(id: &str) -> Result<PathBuf> {
    Ok(cgroup_mount()?.join(format!("datapath-lab-{id}")))
}

/// The binary `lab-pod`: named by `DATAPATH_LAB_POD`, or where cargo puts it, beside this program
/// or above the folder of the test programs.
pub fn pod_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("DATAPATH_LAB_POD") {
        return Ok(path.into());
    }
    let program = env::current_exe().context("find this program")?;
    program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("lab-pod"))
        .find(|path| path.exists())
        .with_context(|| {
            format!(
                "no lab-pod beside {}: run `cargo build -p datapath-tests --bins`",
                program.display()
            )
        })
}

/// Takes the lock of a lab's folder; `None` if its keeper lives.
pub fn lock_folder(folder: &Path) -> Result<Option<Flock<File>>> {
    let path = folder.join(LOCK);
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Removes every lab whose keeper died without clearing up.
pub fn sweep() -> Result<()> {
    let Ok(labs) = fs::read_dir(LABS) else { return Ok(()) };
    for folder in labs.flatten().map(|entry| entry.path()) {
        // A folder younger than this may be about to get its keeper.
        let young = fs::metadata(&folder)
            .and_then(|meta| meta.modified())
            .is_ok_and(|made| made.elapsed().unwrap_or_default() < Duration::from_secs(10));
        if !young && let Ok(Some(_lock)) = lock_folder(&folder) {
            clear(&folder)?;
        }
    }
    Ok(())
}

/// Ends every process of the lab in `folder` and removes its cgroups, mounts and files.
pub fn clear(folder: &Path) -> Result<()> {
    let id = folder.file_name().context("no lab id")?.to_string_lossy();
    let cgroup = lab_cgroup(&id)?;
    end_processes(&cgroup)?;
    let removed = remove_cgroups(&cgroup);
    unmount_below(folder)?;
    fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    // Left when the last lab goes; not empty as long as another one is there.
    fs::remove_dir(LABS).ok();
    removed
}

/// Kills everything in a cgroup and below and waits until it is gone.
pub fn end_processes(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1")
        .with_context(|| format!("kill the processes of {}", cgroup.display()))?;
    let events = cgroup.join("cgroup.events");
    let deadline = Instant::now() + GRACE;
    while fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 1")) {
        if Instant::now() > deadline {
            bail!("processes of {} do not end", cgroup.display());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Removes a cgroup and those below it, which must be without processes.
pub fn remove_cgroups(cgroup: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(cgroup) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path())?;
        }
    }
    let deadline = Instant::now() + GRACE;
    while let Err(error) = fs::remove_dir(cgroup) {
        // A process that has just died holds its cgroup for a moment.
        if Instant::now() > deadline {
            return Err(error).with_context(|| format!("remove {}", cgroup.display()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    for point in mounts.lines().filter_map(|line| line.split_whitespace().nth(1)) {
        if Path::new(point).starts_with(folder) {
            umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("unmount {point}"))?;
        }
    }
    Ok(())
}

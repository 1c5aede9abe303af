//! Where the figures come from.

use anyhow::{Context as _, Result};
use lab::control;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;
use std::{fs, path::Path, process::Command};

/// The machine and what runs on it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of its processors.
    pub processor: String,
    /// How many it has.
    pub cpus: usize,
    /// The CPU on which all that is measured takes place.
    pub measured_cpu: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The kernel.
    pub kernel: String,
    /// Our version.
    pub datapath: String,
    /// kube-proxy's.
    pub kube_proxy: String,
    /// When, by the machine's clock (UTC).
    pub time: String,
}

impl Machine {
    /// Looks at this machine. The last of its CPUs is the one to measure on.
    pub fn look() -> Result<Self> {
        let cpus = sched_getaffinity(Pid::from_raw(0)).context("which CPUs are there")?;
        let usable: Vec<_> =
            (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or_default()).collect();
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
                .unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let memory: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name"),
            cpus: usable.len(),
            measured_cpu: usable.last().copied().context("no CPU")?,
            memory_mib: memory >> 10,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            datapath: env!("CARGO_PKG_VERSION").to_owned(),
            kube_proxy: version(&control::programs()?.join("kube-proxy")),
            time: output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"])),
        })
    }
}

/// Keeps a process, all its threads and all that it will start away from the CPU on which is measured,
/// if there is another.
pub fn keep_off(pid: i32, cpu: usize) -> Result<()> {
    let mut others = sched_getaffinity(Pid::from_raw(0)).context("which CPUs are there")?;
    others.unset(cpu)?;
    if (0..CpuSet::count()).all(|cpu| !others.is_set(cpu).unwrap_or_default()) {
        return Ok(());
    }
    // A thread that has ended meanwhile needs nothing.
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        if let Ok(thread) = thread.file_name().to_string_lossy().parse() {
            sched_setaffinity(Pid::from_raw(thread), &others).ok();
        }
    }
    Ok(())
}

/// The same for all processes of a cgroup and below.
pub fn keep_all_off(cgroup: &Path, cpu: usize) -> Result<()> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        keep_off(pid, cpu)?;
    }
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            keep_all_off(&entry.path(), cpu)?;
        }
    }
    Ok(())
}

fn version(program: &Path) -> String {
    let text = output(Command::new(program).arg("--version"));
    text.split_whitespace().last().unwrap_or_default().to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

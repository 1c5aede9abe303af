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
    /// Looks at this machine.
    pub fn look(cpus: &Cpus) -> Result<Self> {
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
            cpus: cpus.count,
            measured_cpu: cpus.measured,
            memory_mib: memory >> 10,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            datapath: env!("CARGO_PKG_VERSION").to_owned(),
            kube_proxy: version(&control::programs()?.join("kube-proxy")),
            time: output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"])),
        })
    }
}

/// The CPUs that there are.
#[derive(Clone, Copy, Debug)]
pub struct Cpus {
    /// The one on which is measured: the last.
    pub measured: usize,
    count: usize,
    all: CpuSet,
    others: CpuSet,
}

impl Cpus {
    /// Those that this process may use.
    pub fn look() -> Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0)).context("which CPUs are there")?;
        let usable: Vec<_> =
            (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or_default()).collect();
        let measured = usable.last().copied().context("no CPU")?;
        let mut others = all;
        if usable.len() > 1 {
            others.unset(measured)?;
        }
        Ok(Self { measured, count: usable.len(), all, others })
    }

    /// Keeps this process and all that it will start away from the CPU on which is measured, if there
    /// is another.
    pub fn keep_self_off(&self) {
        confine(std::process::id().cast_signed(), &self.others);
    }

    /// The same for all processes of a cgroup and below.
    pub fn keep_off(&self, cgroup: &Path) {
        confine_all(cgroup, &self.others);
    }

    /// Lets all processes of a cgroup and below run anywhere.
    pub fn let_run(&self, cgroup: &Path) {
        confine_all(cgroup, &self.all);
    }
}

/// Keeps a process, all its threads and all that it will start on these CPUs.
fn confine(pid: i32, cpus: &CpuSet) {
    // A thread that has ended meanwhile needs nothing.
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        if let Ok(thread) = thread.file_name().to_string_lossy().parse() {
            sched_setaffinity(Pid::from_raw(thread), cpus).ok();
        }
    }
}

fn confine_all(cgroup: &Path, cpus: &CpuSet) {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        confine(pid, cpus);
    }
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            confine_all(&entry.path(), cpus);
        }
    }
}

fn version(program: &Path) -> String {
    let text = output(Command::new(program).arg("--version"));
    text.split_whitespace().last().unwrap_or_default().to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

//! What processes use: processor time, memory and BPF maps.

use anyhow::{Context as _, Result};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// All processes of a cgroup and below.
#[derive(Clone, Debug)]
pub struct Group(pub PathBuf);

impl Group {
    /// The share of a CPU that they use while `work` is done, for at least as long as `time`.
    pub fn share(&self, time: Duration, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (before, begin) = (self.processor_time()?, Instant::now());
        work()?;
        thread::sleep(time.saturating_sub(begin.elapsed()));
        let used = self.processor_time()?.saturating_sub(before);
        Ok(used.as_secs_f64() / begin.elapsed().as_secs_f64())
    }

    /// Waits until they hardly do anything, but not for ever.
    pub fn rest(&self) -> Result<()> {
        const LITTLE: f64 = 0.1;
        let (begin, look) = (Instant::now(), Duration::from_millis(300));
        while self.share(look, || Ok(()))? > LITTLE && begin.elapsed() < Duration::from_mins(1) {}
        Ok(())
    }

    /// What they and those that have ended have used (`cpu.stat` of cgroups v2, since Linux 4.15).
    fn processor_time(&self) -> Result<Duration> {
        let path = self.0.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        field(&text, "usage_usec").map(Duration::from_micros).context("no usage_usec")
    }
}

/// Resident memory of a process in MiB.
#[expect(clippy::cast_precision_loss, reason = "figures with three digits")]
pub fn memory(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = field(&status, "VmRSS:").context("no VmRSS")?;
    Ok(kib as f64 / 1024.0)
}

/// Memory of the BPF maps that a process has open, in MiB (`memlock` in proc(5), since Linux 4.14).
#[expect(clippy::cast_precision_loss, reason = "figures with three digits")]
pub fn maps(pid: u32) -> Result<f64> {
    let mut maps = HashMap::new();
    let folder = format!("/proc/{pid}/fdinfo");
    for file in fs::read_dir(Path::new(&folder))?.flatten() {
        let info = fs::read_to_string(file.path()).unwrap_or_default();
        if let (Some(id), Some(bytes)) = (field(&info, "map_id:"), field(&info, "memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() as f64 / f64::from(1 << 20))
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_no_maps() {
        assert!(memory(std::process::id()).unwrap() > 1.0);
        assert!(maps(std::process::id()).unwrap() < f64::EPSILON);
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        let text = "pos:\t0\nmap_id:\t17\nmemlock:\t4096\n";
        assert_eq!(field(text, "map_id:"), Some(17));
        assert_eq!(field(text, "memlock:"), Some(4096));
        assert_eq!(field(text, "prog_id:"), None);
    }
}

//! What this machine must offer, checked before anything is changed. All lacks are reported
//! together, each with what to do about it.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

/// The oldest kernel that is aimed at.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// Capabilities the kernel programs and the lab need: name and number in `CapEff`.
const CAPABILITIES: [(&str, u32); 3] =
    [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// Checks all that loading kernel programs and running the lab needs of the kernel and the user.
pub(crate) fn machine() -> Result<()> {
    let lacks: Vec<String> = [root(), kernel(), btf(), filesystem("bpf", BPFFS), cgroup2()]
        .into_iter()
        .flatten()
        .collect();
    report(&lacks)
}

/// Checks that packages can be installed.
pub(crate) fn apt(packages: &[String]) -> Result<()> {
    let lacks: Vec<String> = [root(), apt_get(packages)].into_iter().flatten().collect();
    report(&lacks)
}

fn report(lacks: &[String]) -> Result<()> {
    if lacks.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = lacks.iter().map(|lack| format!("  - {lack}")).collect();
    bail!("this machine is not ready; nothing has been changed:\n{}", list.join("\n"))
}

fn root() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned)
    };
    // "Uid:" lists the real, the effective, the saved and the file system's id.
    if field("Uid:")?.split_whitespace().nth(1)? != "0" {
        return Some(
            "not root: packages, network namespaces and kernel programs need it. \
             Run: sudo -E env \"PATH=$PATH\" cargo xtask ..."
                .to_owned(),
        );
    }
    let effective = u64::from_str_radix(&field("CapEff:")?, 16).ok()?;
    let lacking: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, number)| effective & (1 << number) == 0)
        .map(|(name, _)| *name)
        .collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "root without {}: start the container with --privileged, or use a virtual machine",
            lacking.join(", ")
        )
    })
}

fn kernel() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let version = parse_release(&release)?;
    (version < OLDEST_KERNEL).then(|| {
        format!(
            "kernel {} is too old: boot {}.{} or newer (Debian 12, Ubuntu 22.04 or newer)",
            release.trim(),
            OLDEST_KERNEL.0,
            OLDEST_KERNEL.1
        )
    })
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.trim().parse().ok()?))
}

fn btf() -> Option<String> {
    (!Path::new("/sys/kernel/btf/vmlinux").exists()).then(|| {
        "no BTF: /sys/kernel/btf/vmlinux is missing. Boot a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y (every Debian 12 and Ubuntu 22.04 kernel is), and mount sysfs"
            .to_owned()
    })
}

const BPFFS: &str = "no bpffs: this kernel lacks CONFIG_BPF_SYSCALL. Boot a distribution's kernel";

/// The lack when the kernel does not know the file system.
fn filesystem(name: &str, lack: &str) -> Option<String> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!known.lines().any(|line| line.split_whitespace().last() == Some(name)))
        .then(|| lack.to_owned())
}

fn cgroup2() -> Option<String> {
    if let Some(lack) = filesystem(
        "cgroup2",
        "no cgroup2: this kernel lacks CONFIG_CGROUPS. Boot a distribution's kernel",
    ) {
        return Some(lack);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    (!mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"))).then(|| {
        "cgroup2 is not mounted. Run: mkdir -p /sys/fs/cgroup/unified && \
         mount -t cgroup2 none /sys/fs/cgroup/unified"
            .to_owned()
    })
}

fn apt_get(packages: &[String]) -> Option<String> {
    crate::paths::find_command("apt-get").is_none().then(|| {
        format!(
            "no apt-get here to install packages with. Install what Debian calls: {}",
            packages.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::parse_release;

    #[test]
    fn releases_of_distributions() {
        assert_eq!(parse_release("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(parse_release("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(parse_release("6.18\n"), Some((6, 18)));
        assert_eq!(parse_release("unknown"), None);
    }
}

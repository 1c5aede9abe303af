//! A virtual machine with a kernel of the distribution, and a shell in it.
//!
//! It has no disk: everything is in an initial RAM disk that is made here, of busybox and the kernel's
//! modules. Its first serial line is the shell's, the second one the kernel's.

use crate::initramfs::Initramfs;
use anyhow::{Context as _, Result, bail, ensure};
use lab::space::Space;
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// Names the folder with the kernel, its modules and busybox, as `cargo xtask test` leaves it.
const FOLDER: &str = "DATAPATH_VM";
const QEMU: &str = "qemu-system-x86_64";
/// Below that folder.
const BUSYBOX: &str = "bin/busybox";
/// Memory in MiB: the transfers are kept in it.
const MEMORY: &str = "768";
/// Said by the machine when it is up, and after each command, followed by its number and status.
const READY: &str = "vm-ready";
const STATUS: &str = "vm-status";
/// How long the machine may take to start: it is emulated instruction by instruction, on a busy host.
const BOOT: Duration = Duration::from_mins(4);

/// The network card and its bus, and IP in IP; those that the kernel has built in are not there. Which
/// needs which is not the same in all kernels: they are loaded in so many turns that all find theirs.
const MODULES: [&str; 11] = [
    "failover",
    "net_failover",
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_net",
    "tunnel4",
    "ip_tunnel",
    "ipip",
];

/// A running machine; it ends with this value.
pub(crate) struct Vm {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    console: PathBuf,
    /// How many commands were given.
    commands: u32,
}

/// Why no machine can be run here, if so.
pub(crate) fn missing() -> Option<String> {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return Some(format!("{FOLDER} is not set: `cargo xtask test interop` fetches a kernel"));
    };
    if image(&folder).is_none() {
        return Some(format!("no kernel in {}", folder.display()));
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("this kernel has no tap devices (/dev/net/tun)".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_qemu = std::env::split_paths(&path).any(|folder| folder.join(QEMU).exists());
    (!has_qemu).then(|| format!("no {QEMU} (package qemu-system-x86)"))
}

impl Vm {
    /// Starts a machine in `space`, whose device `tap` is its network card's other end. The machine
    /// does what `setup` says before it takes commands.
    pub(crate) fn start(space: &Space, tap: &str, folder: &Path, setup: &str) -> Result<Self> {
        let root = std::env::var_os(FOLDER).map(PathBuf::from).context("no kernel")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let (disk, console) = (folder.join("initramfs"), folder.join("console.log"));
        fs::write(&disk, initramfs(&root, setup)?).context("write the initial RAM disk")?;
        let mut child = space
            .command(QEMU)?
            .args(["-accel", "tcg", "-m", MEMORY, "-nodefaults", "-no-reboot", "-display", "none"])
            .arg("-kernel")
            .arg(image(&root).context("no kernel")?)
            .arg("-initrd")
            .arg(&disk)
            .args(["-append", "console=ttyS1 panic=-1 loglevel=4"])
            .args(["-serial", "stdio", "-serial", &format!("file:{}", console.display())])
            .args(["-netdev", &format!("tap,id=net,ifname={tap},script=no,downscript=no")])
            .args(["-device", "virtio-net-pci,netdev=net,host_mtu=9001,romfile="])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("qemu.log"))?)
            .spawn()
            .context("start the virtual machine")?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let vm = Self { child, input, lines, console, commands: 0 };
        vm.until(BOOT, |line| line.ends_with(READY).then_some(()))
            .with_context(|| format!("the machine does not start: {}", vm.last_words()))?;
        Ok(vm)
    }

    /// Runs a command in the machine's shell and returns what it printed.
    pub(crate) fn run(&mut self, command: &str, limit: Duration) -> Result<String> {
        // By its number, what a command says that was given up is told from what this one says.
        self.commands += 1;
        let end = format!("{STATUS} {}", self.commands);
        writeln!(self.input, "( {command} ) 2>&1; echo; echo \"{end} $?\"")?;
        self.input.flush()?;
        let mut text = String::new();
        let status = self
            .until(limit, |line| {
                if let Some(status) = line.strip_prefix(&end) {
                    return Some(status.trim().to_owned());
                }
                text += line;
                text += "\n";
                None
            })
            .with_context(|| format!("{command} in the machine, which said {text:?}"))?;
        ensure!(status == "0", "{command} in the machine ended with {status}: {text}");
        Ok(text)
    }

    /// Reads lines until one says what is waited for.
    fn until<T>(&self, limit: Duration, mut found: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = found(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("no answer within {limit:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the machine has ended"),
            }
        }
    }

    /// The end of what the kernel said.
    fn last_words(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The kernel's image below a folder into which its package was unpacked.
fn image(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder.join("boot")).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    })
}

fn initramfs(root: &Path, setup: &str) -> Result<Vec<u8>> {
    let mut disk = Initramfs::default();
    for folder in ["bin", "dev", "proc", "sys", "tmp", "modules"] {
        disk = disk.folder(folder);
    }
    disk = disk.file("bin/busybox", &fs::read(root.join(BUSYBOX)).context("read busybox")?);
    let mut loaded = String::new();
    for module in MODULES {
        if let Some(path) = find(&root.join("lib/modules"), &format!("{module}.ko")) {
            let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            disk = disk.file(&format!("modules/{module}.ko"), &content);
            loaded.push(' ');
            loaded.push_str(module);
        }
    }
    // The shell reads commands from a terminal that does not repeat them.
    let init = format!(
        "#!/bin/busybox sh\n\
         export PATH=/bin\n\
         /bin/busybox --install -s /bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         for turn in 1 2 3 4; do for module in{loaded}; do\n\
         insmod /modules/$module.ko 2>/dev/null\n\
         done; done\n\
         {setup}\n\
         exec 0</dev/ttyS0 1>/dev/ttyS0 2>&1\n\
         stty -echo\n\
         echo {READY}\n\
         while read -r line; do eval \"$line\"; done\n"
    );
    Ok(disk.file("init", init.as_bytes()).finish())
}

/// The file of that name somewhere below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return find(&path, name);
        }
        path.ends_with(name).then_some(path)
    })
}

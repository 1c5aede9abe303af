//! Where pins live, and the file systems under them.

use super::Error;
use datapath_common::ABI_VERSION;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Source of what we mount, as /proc/thread-self/mounts shows it: what a cleanup may unmount.
pub(super) const MOUNT_SOURCE: &str = "datapath";
/// Where a cgroup2 hierarchy is mounted if the node has none.
pub(super) const OWN_CGROUP2: &str = "/run/datapath/cgroup2";
/// Where the BPF file system belongs.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

const BPF_MAGIC: FsType = FsType(0xcafe_4a11);
const CGROUP2_MAGIC: FsType = FsType(0x6367_7270);

/// The paths of pins: `<bpffs>/v1/maps/<MAP>` and `<bpffs>/v1/links/<program>-<where>`.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of this version under the folder `bpffs`.
    pub(super) fn new(bpffs: &Path) -> Self {
        Self { root: bpffs.join(format!("v{ABI_VERSION}")) }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The pin of a program's link. The BPF file system allows no dots in names, devices do.
    pub(super) fn link(&self, program: &str, place: &str) -> PathBuf {
        self.links().join(format!("{program}-{}", place.replace('%', "%25").replace('.', "%2e")))
    }

    /// The place that is in the name of a link's pin.
    pub(super) fn place(escaped: &str) -> String {
        escaped.replace("%2e", ".").replace("%25", "%")
    }

    /// Makes the folders.
    pub(super) fn create(&self) -> Result<(), Error> {
        for folder in [self.maps(), self.links()] {
            fs::create_dir_all(&folder)
                .map_err(Error::system(format!("creating {}", folder.display())))?;
        }
        Ok(())
    }
}

/// Sees to it that `bpffs` is a folder on a BPF file system; mounts one if need be, at the usual
/// place if `bpffs` is under it.
pub fn prepare_bpffs(bpffs: &Path) -> Result<(), Error> {
    let existing = bpffs.ancestors().find(|path| path.exists()).unwrap_or(bpffs);
    if !is_on(existing, BPF_MAGIC) {
        let usual = Path::new(USUAL_BPFFS);
        let target = if bpffs.starts_with(usual) && usual.is_dir() { usual } else { bpffs };
        mount_own("bpf", target)
            .map_err(|source| Error::NoBpffs { path: target.to_owned(), source })?;
        tracing::info!(path = %target.display(), "mounted a BPF file system");
    }
    fs::create_dir_all(bpffs).map_err(Error::system(format!("creating {}", bpffs.display())))
}

/// The folder that the socket hooks are attached to: the one given, else the root of the first
/// cgroup2 hierarchy that is mounted, else of one that is mounted now.
pub(super) fn find_cgroup2(given: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(folder) = given {
        return if is_on(folder, CGROUP2_MAGIC) {
            Ok(folder.to_owned())
        } else {
            Err(Error::NotCgroup2(folder.to_owned()))
        };
    }
    let mounts = mounts()?;
    if let Some(mount) = mounts.into_iter().find(|mount| mount.kind == "cgroup2") {
        return Ok(mount.target);
    }
    let target = PathBuf::from(OWN_CGROUP2);
    mount_own("cgroup2", &target)
        .map_err(|source| Error::NoCgroup2 { path: target.clone(), source })?;
    tracing::info!(path = %target.display(), "mounted a cgroup2 file system");
    Ok(target)
}

/// A line of /proc/thread-self/mounts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) source: String,
    pub(super) target: PathBuf,
    pub(super) kind: String,
}

/// What is mounted in this mount namespace.
pub(super) fn mounts() -> Result<Vec<Mount>, Error> {
    let text = fs::read_to_string("/proc/thread-self/mounts")
        .map_err(Error::system("reading /proc/thread-self/mounts"))?;
    Ok(parse_mounts(&text))
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let mut fields = line.split(' ').map(unescape);
        let (source, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Mount { source, target: target.into(), kind })
    };
    text.lines().filter_map(parse).collect()
}

/// Undoes the octal escapes of blanks in /proc/thread-self/mounts.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn is_on(path: &Path, magic: FsType) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == magic)
}

/// Mounts on an empty folder, which is made if it is not there. Never on one with something in it,
/// which the mount would hide: a mistaken `--bpffs /proc` must not take the node down.
fn mount_own(kind: &str, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    if fs::read_dir(target)?.next().is_some() {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    }
    mount(Some(MOUNT_SOURCE), target, Some(kind), MsFlags::empty(), None::<&str>)
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_link_pins_have_no_dots_and_do_not_collide() {
        let layout = Layout::new(Path::new("/b"));
        assert_eq!(layout.link("from_uplink", "eth0"), Path::new("/b/v1/links/from_uplink-eth0"));
        assert_eq!(layout.link("p", "eth0.7"), Path::new("/b/v1/links/p-eth0%2e7"));
        assert_ne!(layout.link("p", "eth0.7"), layout.link("p", "eth0%2e7"));
        assert_eq!(Layout::place("eth0%2e7"), "eth0.7");
        assert_eq!(Layout::place("eth0%252e7"), "eth0%2e7");
    }

    #[test]
    fn nothing_is_mounted_over_a_folder_with_something_in_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("file"), "").expect("a file");
        let error = mount_own("bpf", folder.path()).expect_err("must not hide the file");
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
    }

    #[test]
    fn mounts_are_read_with_blanks_in_their_names() {
        let text = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n\
                    datapath /mnt/a\\040b bpf rw 0 0\nbroken\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].target, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounts[0].kind, "cgroup2");
        assert_eq!(mounts[1].target, Path::new("/mnt/a b"));
        assert_eq!(mounts[1].source, MOUNT_SOURCE);
    }
}

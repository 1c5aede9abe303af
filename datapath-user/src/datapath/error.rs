//! What can go wrong between us and the kernel, in words that say what to do.

use super::Xdp;
use std::{io, path::PathBuf};

/// An error of the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary was built without the kernel programs.
    #[error("this binary holds no kernel programs; build it with `cargo xtask build`")]
    NoObject,
    /// Loading programs is not permitted.
    #[error(
        "not permitted to use eBPF; run as root, or with the capabilities BPF, NET_ADMIN, PERFMON \
         and SYS_ADMIN (for mounts)"
    )]
    NotPermitted,
    /// The kernel is older than what the programs need.
    #[error("kernel {0} is too old; Linux 5.15 or newer is needed")]
    KernelTooOld(String),
    /// The kernel takes no BTF, which callbacks in programs need.
    #[error("the kernel accepts no BTF; it needs CONFIG_DEBUG_INFO_BTF=y (see /boot/config-*)")]
    NoBtf,
    /// There is no BPF file system, and none could be mounted.
    #[error(
        "no BPF file system at {path} and mounting one failed: {source}; try `mount -t bpf bpf {path}`"
    )]
    NoBpffs {
        /// Where it should be.
        path: PathBuf,
        /// Why mounting failed.
        source: io::Error,
    },
    /// There is no cgroup2 hierarchy, and none could be mounted.
    #[error(
        "no cgroup2 file system found and mounting one at {path} failed: {source}; pass its folder \
         with --cgroup-root, or turn the socket hooks off with --socket-lb=off"
    )]
    NoCgroup2 {
        /// Where it should be.
        path: PathBuf,
        /// Why mounting failed.
        source: io::Error,
    },
    /// The folder given is not in a cgroup2 hierarchy.
    #[error("{0} is not a folder of a cgroup2 file system")]
    NotCgroup2(PathBuf),
    /// A map pinned by another version has another shape.
    #[error(
        "the pinned map {name} at {path} has {found}, but this version needs {needed}; run \
         `datapath cleanup` first (this interrupts service traffic for a moment)"
    )]
    IncompatibleMap {
        /// The map.
        name: String,
        /// Its pin.
        path: PathBuf,
        /// Type and sizes that it has.
        found: String,
        /// Type and sizes that it should have.
        needed: String,
    },
    /// The maps are not there: no agent ever ran, or after a cleanup.
    #[error("no map {name} at {path}: the datapath is not installed on this node")]
    NoMap {
        /// The map.
        name: &'static str,
        /// Where its pin should be.
        path: PathBuf,
    },
    /// The object lacks a program or holds one of another type.
    #[error("the object file holds no usable program {0}")]
    NoProgram(&'static str),
    /// A map size was asked for a map that does not exist or has a fixed size.
    #[error("{0} is not a map with a size that can be chosen")]
    NotSizable(String),
    /// Reading or creating the object's maps failed.
    #[error("loading the object file: {0}")]
    Load(#[from] aya::EbpfError),
    /// The kernel refused a program; the text holds the verifier's log.
    #[error("the kernel refused the program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// The reason, with the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map is full.
    #[error("the map {name} is full ({max} entries)")]
    Full {
        /// The map.
        name: &'static str,
        /// Its size.
        max: u32,
    },
    /// A network device that should be attached to is gone.
    #[error("the device {0} is gone")]
    NoDevice(String),
    /// XDP was asked for where it cannot be had.
    #[error("--xdp={flag} on {place}: {source} (--xdp=auto goes on without)")]
    Xdp {
        /// What was asked for.
        flag: Xdp,
        /// Where.
        place: String,
        /// Why not.
        source: Box<Self>,
    },
    /// Any other system call that failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted, on what.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// Wraps a failed system call; to be used in `map_err`.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// Says which flag asked for it.
    pub(super) fn xdp(flag: Xdp, place: impl Into<String>, source: Self) -> Self {
        Self::Xdp { flag, place: place.into(), source: Box::new(source) }
    }
}

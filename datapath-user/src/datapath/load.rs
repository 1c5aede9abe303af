//! Maps are opened or created, programs are loaded and verified; nothing is attached here.

use super::{
    Error, Options,
    maps::Maps,
    pin::Layout,
    raw_map::{RawMap, kind_name},
    sys,
    xdp::Xdp,
};
use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupSockAddr, ProgramError, SchedClassifier, Xdp as XdpProgram},
    util::KernelVersion,
};
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_CONNECT,
    BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_UDP6_SENDMSG,
};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The object file of the kernel programs, as build.rs found it.
static OBJECT: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// Direction of the packets that a tc program sees, from the device's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Packets that the device received.
    Ingress,
    /// Packets that the device is about to send.
    Egress,
}

/// Programs of a pod's interface.
pub(super) const POD: [(&str, Direction); 2] =
    [("from_pod", Direction::Ingress), ("to_pod", Direction::Egress)];
/// Programs of an uplink.
pub(super) const UPLINK: [(&str, Direction); 2] =
    [("from_uplink", Direction::Ingress), ("to_uplink", Direction::Egress)];
/// On the loopback device, where no socket hooks are.
pub(super) const LOOPBACK: [(&str, Direction); 1] = [("to_uplink", Direction::Egress)];
/// Socket hooks.
pub(super) const SOCKET: [(&str, bpf_attach_type); 8] = [
    ("connect4", BPF_CGROUP_INET4_CONNECT),
    ("connect6", BPF_CGROUP_INET6_CONNECT),
    ("sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
    ("sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
    ("recvmsg4", BPF_CGROUP_UDP4_RECVMSG),
    ("recvmsg6", BPF_CGROUP_UDP6_RECVMSG),
    ("getpeername4", BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", BPF_CGROUP_INET6_GETPEERNAME),
];
/// On uplinks, before there are packets.
pub(super) const XDP: &str = "xdp_uplink";
/// Removes expired flows; never attached.
pub(super) const SWEEP: &str = "sweep";

/// Loaded programs by name.
#[derive(Debug)]
pub(super) struct Programs(HashMap<&'static str, OwnedFd>);

impl Programs {
    /// The program called `name`.
    pub(super) fn get(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        self.0.get(name).map(AsFd::as_fd).ok_or(Error::NoProgram(name))
    }

    /// Whether there is a program called `name`.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.0.contains_key(name)
    }
}

/// Whether this binary was built with the kernel programs.
pub fn has_programs() -> bool {
    OBJECT.is_some()
}

/// Names of the maps whose number of entries can be chosen.
pub fn sizable_maps() -> impl Iterator<Item = &'static str> {
    Maps::NAMES.into_iter().filter(|name| !matches!(*name, "CONFIG" | "COUNTERS"))
}

/// Checks what can be checked before anything on the node is changed.
pub(super) fn check_kernel() -> Result<(), Error> {
    if !has_programs() {
        return Err(Error::NoObject);
    }
    let version = kernel_version()?;
    if version < KernelVersion::new(5, 15, 0) {
        return Err(Error::KernelTooOld(version.to_string()));
    }
    if let Err(error) = sys::raise_memlock() {
        tracing::debug!(%error, "the limit on locked memory stays as it is");
    }
    sys::probe().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPermitted,
        _ => Error::system("creating a map")(error),
    })?;
    if aya::features().btf().is_none() {
        return Err(Error::NoBtf);
    }
    Ok(())
}

/// Opens or creates the pinned maps, loads and verifies all programs.
pub(super) fn load(options: &Options, layout: &Layout) -> Result<Programs, Error> {
    let object = OBJECT.ok_or(Error::NoObject)?;
    check_pins(object, options, layout)?;
    let can_refuse = u32::from(can_refuse(kernel_version()?));
    let mut loader = EbpfLoader::new();
    // The programs follow no kernel structure: nothing is relocated against the kernel's types.
    loader.btf(None).override_global("CAN_REFUSE", &can_refuse, true);
    if !options.log_datapath {
        // Programs that were built with their log must not fill it for nobody.
        loader.override_global(aya_log::LEVEL, &0_u8, false);
    }
    for (name, entries) in &options.map_entries {
        loader.map_max_entries(name, *entries);
    }
    for name in Maps::NAMES {
        loader.map_pin_path(name, layout.map(name));
    }
    let mut ebpf = loader.load(object)?;
    let programs = load_programs(&mut ebpf, options)?;
    if options.log_datapath {
        forward_log(&mut ebpf);
    }
    drop((ebpf, loader));
    sys::release_memory();
    Ok(programs)
}

/// Whether the socket hooks can choose the error of a call that they deny (`bpf_set_retval`, since
/// Linux 5.18). Where they cannot, the tc programs refuse the connection instead.
fn can_refuse(version: KernelVersion) -> bool {
    version >= KernelVersion::new(5, 18, 0)
}

fn kernel_version() -> Result<KernelVersion, Error> {
    KernelVersion::current()
        .map_err(|error| Error::system("reading the kernel's version")(io::Error::other(error)))
}

/// Has all existing pins the shape that the object's maps have?
fn check_pins(object: &[u8], options: &Options, layout: &Layout) -> Result<(), Error> {
    let parsed = aya_obj::Object::parse(object).map_err(aya::EbpfError::from)?;
    let is_sizable = |name: &str| sizable_maps().any(|sizable| sizable == name);
    if let Some(name) = options.map_entries.keys().find(|name| !is_sizable(name)) {
        return Err(Error::NotSizable(name.clone()));
    }
    for name in Maps::NAMES {
        let path = layout.map(name);
        let Some(map) = parsed.maps.get(name) else { continue };
        let found = match RawMap::open(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::system(format!("opening {}", path.display()))(error)),
        };
        let info = found.info();
        let needed = (map.map_type(), map.key_size(), map.value_size());
        if (info.kind, info.key_size, info.value_size) != needed {
            return Err(Error::IncompatibleMap {
                name: name.to_owned(),
                path,
                found: shape(info.kind, info.key_size, info.value_size),
                needed: shape(needed.0, needed.1, needed.2),
            });
        }
        let wanted = options.map_entries.get(name).copied().unwrap_or(map.max_entries());
        if info.max_entries != wanted {
            tracing::info!(
                map = name,
                size = info.max_entries,
                wanted,
                "the pinned map keeps its size"
            );
        }
    }
    Ok(())
}

fn shape(kind: u32, key: u32, value: u32) -> String {
    format!("type {} with keys of {key} and values of {value} bytes", kind_name(kind))
}

fn load_programs(ebpf: &mut Ebpf, options: &Options) -> Result<Programs, Error> {
    let mut programs = HashMap::new();
    let tc = POD.iter().chain(&UPLINK).map(|(name, _)| *name).chain([SWEEP]);
    for name in tc {
        let program = find::<SchedClassifier>(ebpf, name)?;
        program.load().map_err(refused(name))?;
        programs.insert(name, duplicate(name, program.fd())?);
    }
    for (name, _) in SOCKET.into_iter().filter(|_| options.socket_lb) {
        let program = find::<CgroupSockAddr>(ebpf, name)?;
        program.load().map_err(refused(name))?;
        programs.insert(name, duplicate(name, program.fd())?);
    }
    if options.xdp != Xdp::Off {
        match load_xdp(ebpf) {
            Ok(program) => drop(programs.insert(XDP, program)),
            Err(error) if options.xdp == Xdp::Auto => {
                tracing::warn!(%error, "no XDP; the tc programs do it all");
            }
            Err(error) => return Err(Error::xdp(options.xdp, "this kernel", error)),
        }
    }
    for (name, program) in ebpf.programs() {
        if let Ok(info) = program.info() {
            let instructions = info.verified_instruction_count();
            tracing::debug!(program = name, ?instructions, "verified");
        }
    }
    Ok(Programs(programs))
}

fn load_xdp(ebpf: &mut Ebpf) -> Result<OwnedFd, Error> {
    let program = find::<XdpProgram>(ebpf, XDP)?;
    program.load().map_err(refused(XDP))?;
    duplicate(XDP, program.fd())
}

fn find<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = ebpf.program_mut(name).ok_or(Error::NoProgram(name))?;
    program.try_into().map_err(|_mismatch| Error::NoProgram(name))
}

fn refused(name: &'static str) -> impl FnOnce(ProgramError) -> Error {
    move |source| Error::Program { name, source: Box::new(source) }
}

/// A descriptor that outlives aya's.
fn duplicate(
    name: &'static str,
    fd: Result<&aya::programs::ProgramFd, ProgramError>,
) -> Result<OwnedFd, Error> {
    let fd = fd.map_err(refused(name))?;
    fd.as_fd().try_clone_to_owned().map_err(Error::system(format!("keeping the program {name}")))
}

/// Forwards the programs' own log to tracing, if they were built with it.
fn forward_log(ebpf: &mut Ebpf) {
    let logger = match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the programs were built without their log");
            return;
        }
    };
    // SAFETY: the logger owns its descriptor, and has the same one for life.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut ready = match registered {
        Ok(ready) => ready,
        Err(error) => {
            tracing::warn!(%error, "the programs' log cannot be followed");
            return;
        }
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = ready.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

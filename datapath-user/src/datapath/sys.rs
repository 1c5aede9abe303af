//! bpf(2) for what aya lacks: batches, links of every kind, test runs; and a few other calls.
//!
//! Each command's part of the kernel's `union bpf_attr` (include/uapi/linux/bpf.h) is a struct of its
//! own here: the kernel takes the size that it is given and reads the rest as zeros.

use bytemuck::{Pod, Zeroable};
use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2).
#[derive(Clone, Copy)]
#[repr(i64)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    ProgTestRun = 10,
    ObjInfo = 15,
    ProgQuery = 16,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// Calls bpf(2).
///
/// # Safety
///
/// Pointers in `attr` must be valid for what `command` reads and writes through them.
pub(super) unsafe fn bpf<T: Pod>(command: Command, attr: &mut T) -> io::Result<i64> {
    // SAFETY: attr is valid for its size; the caller vouches for the pointers in it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as i64, std::ptr::from_mut(attr), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes the descriptor that bpf(2) returned ours.
fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// The descriptor's number, as `bpf_attr` holds it.
pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Whether this process may use eBPF and the kernel has it: creates a small map and drops it.
pub(super) fn probe() -> io::Result<()> {
    const ARRAY: u32 = 2;
    let mut attr = MapCreate { kind: ARRAY, key_size: 4, value_size: 4, max_entries: 1 };
    // SAFETY: the attribute holds no pointers.
    unsafe { bpf(Command::MapCreate, &mut attr) }.map(|fd| drop(owned(fd)))
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a map, program or link.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { path: path.as_ptr() as u64, fd: number(fd), flags: 0 };
    // SAFETY: path is a C string that outlives the call.
    unsafe { bpf(Command::ObjPin, &mut attr) }.map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { path: path.as_ptr() as u64, ..Object::default() };
    // SAFETY: path is a C string that outlives the call.
    unsafe { bpf(Command::ObjGet, &mut attr) }.map(owned)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct InfoRequest {
    fd: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable, Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable, Default)]
pub(super) struct ProgramInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
}

/// The start of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable, Default)]
pub(super) struct LinkInfo {
    kind: u32,
    pub(super) id: u32,
    pub(super) program: u32,
    pad: u32,
    target: [u32; 4],
}

impl LinkInfo {
    /// tcx, XDP: index of the device, 0 once it is detached or the device is gone.
    pub(super) fn device(&self) -> u32 {
        self.target[0]
    }

    /// cgroup: number of the cgroup, 0 once it is detached or the cgroup is gone.
    pub(super) fn cgroup(&self) -> u64 {
        bytemuck::cast([self.target[0], self.target[1]])
    }
}

/// What the kernel says of a map, program or link; `T` must be the start of its info struct.
pub(super) fn info<T: Pod>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::zeroed();
    let mut attr = InfoRequest {
        fd: number(fd),
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes, the size of `info`, which is plain data.
    unsafe { bpf(Command::ObjInfo, &mut attr) }?;
    Ok(info)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// Flag of [`create_link`] for tcx (`BPF_F_BEFORE`): before the program that is named, and before all
/// if none is.
pub(super) const BEFORE: u32 = 1 << 3;

/// Attaches a program to a device (by index) or cgroup (by descriptor). `flags` are those of the kind
/// of program.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: number(program),
        target,
        attach_type,
        flags,
        ..LinkCreate::default()
    };
    // SAFETY: the attribute holds no pointers.
    unsafe { bpf(Command::LinkCreate, &mut attr) }.map(owned)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Swaps the program of a link, atomically: each packet meets the old one or the new one.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdate { link: number(link), program: number(program), ..LinkUpdate::default() };
    // SAFETY: the attribute holds no pointers.
    unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
}

/// Detaches a link whoever else holds it (since Linux 5.9).
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = number(link);
    // SAFETY: the attribute holds no pointers.
    unsafe { bpf(Command::LinkDetach, &mut attr) }.map(drop)
}

/// Up to its last field: the kernel writes the revision whatever size it was given.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct Query {
    device: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

/// Whether the kernel has tcx: asks what is attached to the loopback device, which is number 1 in
/// every network namespace.
pub(super) fn has_tcx() -> bool {
    let attach_type = aya_obj::generated::bpf_attach_type::BPF_TCX_INGRESS as u32;
    let mut attr = Query { device: 1, attach_type, ..Query::default() };
    // SAFETY: the only pointer is null, and its count 0.
    unsafe { bpf(Command::ProgQuery, &mut attr) }.is_ok()
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable, Default)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a tc program once on an empty packet; returns what it returned.
pub(super) fn test_run(program: BorrowedFd<'_>) -> io::Result<u32> {
    /// An Ethernet header and one byte, the least that the kernel accepts.
    const PACKET: [u8; 15] = [0; 15];
    let mut attr = TestRun {
        program: number(program),
        size_in: PACKET.len() as u32,
        data_in: PACKET.as_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: data_in is valid for size_in bytes, and no output is asked for.
    unsafe { bpf(Command::ProgTestRun, &mut attr) }?;
    Ok(attr.result)
}

/// Lifts the limit on locked memory, which counts against maps before Linux 5.11 and in some
/// containers after it.
pub(super) fn raise_memlock() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: limit is a valid struct that the call only reads.
    match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Cookie of a socket's network namespace (`SO_NETNS_COOKIE`, since Linux 5.14).
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of cookie.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// `CLOCK_MONOTONIC` in nanoseconds, as programs read it with `bpf_ktime_get_ns`.
pub(super) fn monotonic_now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: time is valid for the call to write to; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Gives memory that is no longer used back to the kernel: loading parses megabytes once.
pub(super) fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Size of a per-CPU map's value for one CPU as bpf(2) hands it over.
pub(super) fn per_cpu_stride(value_size: usize) -> usize {
    value_size.next_multiple_of(size_of::<u64>())
}

//! Filters of the clsact qdisc, for kernels without tcx (before Linux 6.6).
//!
//! Ours have a priority, a handle and a name of their own, so that replacing and removing them
//! touches nothing else.

use super::load::Direction;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

/// The first to be asked.
const PRIORITY: u32 = 1;
/// Tells our filter from others of that priority.
const HANDLE: u32 = 0x6470;
/// Prefix of our filters' names, as `tc filter show` prints them.
const NAME_PREFIX: &str = "datapath/";

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const ETH_P_ALL: u16 = 3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// The program's return value is the verdict.
const DIRECT_ACTION: u32 = 1;

const HEADER: usize = 16;
const TCMSG: usize = 20;

/// Our filter on a device, as the kernel has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// Name of the kernel program.
    pub(super) program: String,
    /// The program's number.
    pub(super) program_id: u32,
}

/// Attaches `program` to a device, or puts it in the place of ours that is there, atomically.
pub(super) fn attach(
    device: u32,
    direction: Direction,
    program: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    let qdisc = Request::new(RTM_NEWQDISC, libc::NLM_F_CREATE | libc::NLM_F_EXCL, device)
        .tc(CLSACT_HANDLE, TC_H_CLSACT, 0)
        .text(TCA_KIND, "clsact");
    match talk(qdisc) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut options = Vec::new();
    push(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    push(&mut options, TCA_BPF_NAME, format!("{NAME_PREFIX}{name}\0").as_bytes());
    push(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    // Without NLM_F_EXCL the kernel replaces the filter that has this handle.
    let filter = Request::new(RTM_NEWTFILTER, libc::NLM_F_CREATE, device)
        .ours(direction)
        .text(TCA_KIND, "bpf")
        .attribute(TCA_OPTIONS, &options);
    talk(filter).map(drop)
}

/// Our filter on a device, if there is one.
pub(super) fn find(device: u32, direction: Direction) -> io::Result<Option<Filter>> {
    match talk(Request::new(RTM_GETTFILTER, 0, device).ours(direction).text(TCA_KIND, "bpf")) {
        Ok(replies) => Ok(replies.iter().find_map(|reply| parse_filter(reply))),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes our filter from a device; returns whether there was one. The qdisc goes too if nothing
/// else is in it.
pub(super) fn detach(device: u32, direction: Direction) -> io::Result<bool> {
    if find(device, direction)?.is_none() {
        return Ok(false);
    }
    talk(Request::new(RTM_DELTFILTER, 0, device).ours(direction).text(TCA_KIND, "bpf"))?;
    let both = [Direction::Ingress, Direction::Egress];
    if both.iter().all(|direction| is_empty(device, *direction).unwrap_or(false)) {
        talk(Request::new(RTM_DELQDISC, 0, device).tc(CLSACT_HANDLE, TC_H_CLSACT, 0))?;
    }
    Ok(true)
}

/// Whether the clsact qdisc of a device has no filters in this direction.
fn is_empty(device: u32, direction: Direction) -> io::Result<bool> {
    let all = Request::new(RTM_GETTFILTER, libc::NLM_F_DUMP, device).tc(0, direction.parent(), 0);
    Ok(talk(all)?.is_empty())
}

impl Direction {
    /// The hook of the clsact qdisc.
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// No such filter, no such qdisc, or no such device.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}

fn parse_filter(reply: &[u8]) -> Option<Filter> {
    let options = attributes(reply.get(TCMSG..)?).find(|(kind, _)| *kind == TCA_OPTIONS)?.1;
    let mut filter = Filter { program: String::new(), program_id: 0 };
    for (kind, value) in attributes(options) {
        match kind {
            TCA_BPF_NAME => {
                let name = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value));
                name.strip_prefix(NAME_PREFIX)?.clone_into(&mut filter.program);
            }
            TCA_BPF_ID => filter.program_id = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    (!filter.program.is_empty()).then_some(filter)
}

/// A request as it is built: header, `struct tcmsg`, attributes.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: libc::c_int, device: u32) -> Self {
        let mut bytes = vec![0; HEADER + TCMSG];
        // A dump ends by itself; asked for an acknowledgement too, some kernels send two endings.
        let ack = if flags == libc::NLM_F_DUMP { 0 } else { libc::NLM_F_ACK };
        let flags = (flags | ack | libc::NLM_F_REQUEST).cast_unsigned() as u16;
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[20..24].copy_from_slice(&device.to_ne_bytes());
        Self(bytes)
    }

    fn tc(mut self, handle: u32, parent: u32, info: u32) -> Self {
        self.0[24..28].copy_from_slice(&handle.to_ne_bytes());
        self.0[28..32].copy_from_slice(&parent.to_ne_bytes());
        self.0[32..36].copy_from_slice(&info.to_ne_bytes());
        self
    }

    /// Names our filter.
    fn ours(self, direction: Direction) -> Self {
        self.tc(HANDLE, direction.parent(), PRIORITY << 16 | u32::from(ETH_P_ALL.to_be()))
    }

    fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, format!("{text}\0").as_bytes())
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        push(&mut self.0, kind, value);
        self
    }
}

fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The attributes that `bytes` consists of.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Sends a request, waits for its end, and returns the bodies of the answers.
fn talk(Request(mut bytes): Request) -> io::Result<Vec<Vec<u8>>> {
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    let socket: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;
    let mut replies = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..size];
        while let Some((kind, body)) = next_message(&mut rest) {
            match libc::c_int::from(kind) {
                libc::NLMSG_DONE => return Ok(replies),
                libc::NLMSG_ERROR => {
                    let code = body.get(..4).and_then(|bytes| bytes.try_into().ok());
                    return match code.map(i32::from_ne_bytes) {
                        Some(0) => Ok(replies),
                        Some(code) => Err(io::Error::from_raw_os_error(-code)),
                        None => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                _ => replies.push(body.to_vec()),
            }
        }
    }
}

fn next_message<'a>(bytes: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body))
}

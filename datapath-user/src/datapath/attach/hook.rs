//! One program at one place: attaching it there, asking whether it is attached, removing it.

use crate::datapath::{
    Error,
    link::{open_link, pin_again, remove_link},
    load::{Direction, Programs},
    netlink,
    sys::{self, LinkInfo, ProgramInfo},
    xdp::Mode,
};
use aya_obj::generated::bpf_attach_type::{BPF_TCX_EGRESS, BPF_TCX_INGRESS, BPF_XDP};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// What a link is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A device, by index and name.
    Device { index: u32, name: String, direction: Direction },
    /// A device, before there are packets.
    Xdp { index: u32, name: String, mode: Mode },
    /// A cgroup, by number and folder.
    Cgroup { id: u64, folder: PathBuf, attach_type: u32 },
}

/// How it is attached.
#[derive(Debug)]
pub(super) enum Holder {
    /// By a link, pinned.
    Link(OwnedFd),
    /// By a filter of the clsact qdisc, which lives as long as the device.
    Filter,
}

/// Since when there has been what is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Since {
    /// No agent before can have left anything on it. To look for that would be to wait for the kernel's
    /// lock of all devices once more for each program.
    Now,
    Unknown,
}

#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) program: &'static str,
    pub(super) target: Target,
    pub(super) holder: Holder,
}

impl Attachment {
    pub(super) fn pin_name(&self) -> &'static str {
        pin_name(self.program, &self.target)
    }
}

/// What stands in the name of the pin, before the place.
pub(super) fn pin_name(program: &'static str, target: &Target) -> &'static str {
    match target {
        Target::Xdp { mode, .. } => mode.pin(),
        Target::Device { .. } | Target::Cgroup { .. } => program,
    }
}

impl Target {
    /// Index and name of the device.
    pub(super) fn device(&self) -> Option<(u32, &str)> {
        match self {
            Self::Device { index, name, .. } | Self::Xdp { index, name, .. } => {
                Some((*index, name))
            }
            Self::Cgroup { .. } => None,
        }
    }

    pub(super) fn is_of(&self, info: &LinkInfo) -> bool {
        match self {
            Self::Device { index, .. } | Self::Xdp { index, .. } => info.device() == *index,
            Self::Cgroup { id, .. } => info.cgroup() == *id,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Device { name, .. } | Self::Xdp { name, .. } => format!("the device {name}"),
            Self::Cgroup { folder, .. } => folder.display().to_string(),
        }
    }
}

/// Puts the program into the link that is pinned, or into a new one.
pub(super) fn attach_link(
    programs: &Programs,
    program: &'static str,
    target: &Target,
    pin: &Path,
    since: Since,
) -> Result<OwnedFd, Error> {
    let fd = programs.get(program)?;
    let place = target.describe();
    if let Some((link, info)) = open_link(pin)?.filter(|(_, info)| target.is_of(info)) {
        if info.program != info_of_program(programs, program)?.id {
            sys::update_link(link.as_fd(), fd)
                .map_err(Error::system(format!("replacing {program} on {place}")))?;
        }
        return Ok(link);
    }
    let what = format!("attaching {program} to {place}");
    let link = match target {
        Target::Device { index, direction, .. } => {
            let hook = match direction {
                Direction::Ingress => BPF_TCX_INGRESS,
                Direction::Egress => BPF_TCX_EGRESS,
            };
            sys::create_link(fd, *index, hook as u32, sys::BEFORE)
        }
        Target::Xdp { index, mode, .. } => {
            sys::create_link(fd, *index, BPF_XDP as u32, mode.flag())
        }
        Target::Cgroup { folder, attach_type, .. } => File::open(folder).and_then(|cgroup| {
            let cgroup = cgroup.as_raw_fd().cast_unsigned();
            sys::create_link(fd, cgroup, *attach_type, 0)
        }),
    };
    let link = link.map_err(|error| attach_error(target, what, error))?;
    // A pin of a device that is gone, or of another cgroup: the new link is in force already.
    remove_link(pin)?;
    pin_again(&link, pin)?;
    if let (Target::Device { index, direction, .. }, Since::Unknown) = (target, since) {
        // Left by an agent that did not use links.
        netlink::detach(*index, *direction)
            .map_err(Error::system(format!("removing the filter on {place}")))?;
    }
    Ok(link)
}

pub(super) fn attach_filter(
    programs: &Programs,
    program: &'static str,
    target: &Target,
    pin: &Path,
) -> Result<Holder, Error> {
    if let Target::Device { index, direction, .. } = target {
        let what = format!("attaching {program} to {}", target.describe());
        netlink::attach(*index, *direction, programs.get(program)?, program)
            .map_err(|error| attach_error(target, what, error))?;
        // Left by an agent that used links.
        remove_link(pin)?;
    }
    Ok(Holder::Filter)
}

fn attach_error(target: &Target, what: String, error: io::Error) -> Error {
    match (target.device(), error.raw_os_error()) {
        (Some((_, name)), Some(libc::ENODEV)) => Error::NoDevice(name.to_owned()),
        _ => Error::system(what)(error),
    }
}

/// Whether the attachment is in force with our program.
pub(super) fn is_attached(attachment: &Attachment, program: u32) -> Result<bool, Error> {
    let Attachment { target, holder, .. } = attachment;
    let what = format!("looking at what is attached to {}", target.describe());
    match (holder, target) {
        (Holder::Link(fd), _) => {
            let info: LinkInfo = sys::info(fd.as_fd()).map_err(Error::system(what))?;
            Ok(target.is_of(&info) && info.program == program)
        }
        (Holder::Filter, Target::Device { index, direction, .. }) => {
            let filter = netlink::find(*index, *direction).map_err(Error::system(what))?;
            Ok(filter.is_some_and(|filter| filter.program_id == program))
        }
        (Holder::Filter, Target::Xdp { .. } | Target::Cgroup { .. }) => Ok(false),
    }
}

pub(super) fn remove(pin: &Path, attachment: &Attachment) -> Result<(), Error> {
    if let (Holder::Filter, Target::Device { index, direction, name }) =
        (&attachment.holder, &attachment.target)
    {
        netlink::detach(*index, *direction)
            .map_err(Error::system(format!("removing the filter on {name}")))?;
    }
    remove_link(pin).map(drop)
}

/// Removes our filters from a device; returns the names of their programs.
pub(in crate::datapath) fn remove_filters(index: u32, name: &str) -> Result<Vec<String>, Error> {
    let mut programs = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let what = || Error::system(format!("removing filters from {name}"));
        let Some(filter) = netlink::find(index, direction).map_err(what())? else { continue };
        netlink::detach(index, direction).map_err(what())?;
        programs.push(filter.program);
    }
    Ok(programs)
}

pub(super) fn info_of_program(
    programs: &Programs,
    name: &'static str,
) -> Result<ProgramInfo, Error> {
    sys::info(programs.get(name)?).map_err(Error::system(format!("looking at {name}")))
}

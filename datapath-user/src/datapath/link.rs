//! Pinned links.

use super::{
    Error,
    load::{SOCKET, XDP},
    pin::Layout,
    reader::Attachment,
    sys::{self, LinkInfo},
    xdp::Mode,
};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Opens a pinned link, if there is one.
pub(super) fn open_link(pin: &Path) -> Result<Option<(OwnedFd, LinkInfo)>, Error> {
    let what = || Error::system(format!("opening the link {}", pin.display()));
    match sys::open_pin(pin) {
        Ok(fd) => {
            let info = sys::info(fd.as_fd()).map_err(what())?;
            Ok(Some((fd, info)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(what()(error)),
    }
}

/// What a pinned link is attached to, by its name and the kernel's word.
pub(super) fn describe_link(pin: &Path) -> Result<Option<Attachment>, Error> {
    let Some((_, info)) = open_link(pin)? else { return Ok(None) };
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    let Some((program, place)) = name.split_once('-') else { return Ok(None) };
    let socket = SOCKET.iter().any(|(name, _)| *name == program);
    let xdp = Mode::ALL.into_iter().find(|mode| mode.pin() == program);
    let (program, kind) = match xdp {
        Some(mode) => (XDP, mode.name()),
        None => (program, if socket { "cgroup" } else { "tcx" }),
    };
    let attached = if socket { info.cgroup() != 0 } else { info.device() != 0 };
    let (program, place) = (program.to_owned(), Layout::place(place));
    Ok(Some(Attachment { program, place, kind, attached }))
}

/// Detaches a pinned link, whoever else holds it, and removes the pin; returns whether there was one.
pub(super) fn remove_link(pin: &Path) -> Result<bool, Error> {
    let Some((fd, _)) = open_link(pin)? else { return Ok(false) };
    match sys::detach_link(fd.as_fd()) {
        // Detached already, or its device is gone.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::ENODEV)) => {
            return Err(Error::system(format!("detaching the link {}", pin.display()))(error));
        }
        _ => {}
    }
    fs::remove_file(pin).map_err(Error::system(format!("removing {}", pin.display())))?;
    Ok(true)
}

/// Pins a link unless it is pinned; returns whether it had to.
pub(super) fn pin_again(link: &OwnedFd, pin: &Path) -> Result<bool, Error> {
    let what = || Error::system(format!("pinning the link {}", pin.display()));
    let ours: LinkInfo = sys::info(link.as_fd()).map_err(what())?;
    match open_link(pin)? {
        Some((_, found)) if found.id == ours.id => return Ok(false),
        Some(_) => fs::remove_file(pin).map_err(what())?,
        // Whoever removed the pin may have removed its folder.
        None => pin.parent().map_or(Ok(()), fs::create_dir_all).map_err(what())?,
    }
    sys::pin(link.as_fd(), pin).map_err(what())?;
    Ok(true)
}

//! Attaching programs, in place of what an earlier agent attached where there is such.

mod hook;

use super::{
    Device, Error, Repairs,
    link::{open_link, pin_again, remove_link},
    load::{Direction, POD, Programs, SOCKET, UPLINK, XDP},
    pin::Layout,
    xdp::{Mode, Xdp},
};
use hook::{
    Attachment, Holder, Since, Target, attach_filter, attach_link, info_of_program, is_attached,
    pin_name, remove,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub(super) use hook::remove_filters;

/// Name of the place of the socket hooks' pins.
const CGROUP: &str = "cgroup";

/// Everything attached by this agent, by its pin.
#[derive(Debug)]
pub(super) struct Attachments {
    layout: Layout,
    tcx: bool,
    /// Filters of an agent that used no links have been looked for.
    filters_checked: bool,
    /// Repairs that nobody has been told of yet.
    repaired: u32,
    /// Devices that were attached to by [`Self::early`] alone so far.
    early: BTreeSet<u32>,
    all: BTreeMap<PathBuf, Attachment>,
}

impl Attachments {
    pub(super) fn new(layout: Layout, tcx: bool) -> Self {
        Self {
            layout,
            tcx,
            filters_checked: false,
            repaired: 0,
            early: BTreeSet::new(),
            all: BTreeMap::new(),
        }
    }

    /// Attaches `chosen` programs to a device.
    pub(super) fn device(
        &mut self,
        programs: &Programs,
        chosen: &[(&'static str, Direction)],
        index: u32,
        name: &str,
    ) -> Result<(), Error> {
        self.early.remove(&index);
        self.follow_name(index, name)?;
        for (program, direction) in chosen.iter().copied() {
            let target = Target::Device { index, name: name.to_owned(), direction };
            self.attach(programs, program, target, Since::Unknown)?;
        }
        self.retire(chosen, name)
    }

    /// Attaches the programs of a pod's interface, unless the device has some; [`Self::remove_others`]
    /// leaves it alone until [`Self::device`] has seen it too.
    pub(super) fn early(
        &mut self,
        programs: &Programs,
        index: u32,
        name: &str,
    ) -> Result<(), Error> {
        let is_here = |attachment: &Attachment| matches!(attachment.target, Target::Device { index: known, .. } if known == index);
        if self.all.values().any(is_here) {
            return Ok(());
        }
        for (program, direction) in POD {
            let target = Target::Device { index, name: name.to_owned(), direction };
            self.attach(programs, program, target, Since::Now)?;
        }
        self.retire(&POD, name)?;
        self.early.insert(index);
        Ok(())
    }

    /// Renames what is attached to a device that has a new name: the kernel takes no program twice.
    fn follow_name(&mut self, index: u32, name: &str) -> Result<(), Error> {
        let renamed = |attachment: &Attachment| {
            let device = attachment.target.device();
            device.is_some_and(|(known, called)| known == index && called != name)
        };
        let pins = self.all.iter().filter(|(_, attachment)| renamed(attachment));
        for old in pins.map(|(pin, _)| pin.clone()).collect::<Vec<_>>() {
            let Some(mut attachment) = self.all.remove(&old) else { continue };
            if let Target::Device { name: called, .. } | Target::Xdp { name: called, .. } =
                &mut attachment.target
            {
                name.clone_into(called);
            }
            let new = self.layout.link(attachment.pin_name(), name);
            match fs::rename(&old, &new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::system(format!("renaming {}", old.display()))(error));
                }
                // A pin that somebody removed is made again by the next check.
                _ => drop(self.all.insert(new, attachment)),
            }
        }
        Ok(())
    }

    /// Removes the programs of the device's other role, also those of an earlier agent. Filters need
    /// no removal: the new ones took their place.
    fn retire(&mut self, chosen: &[(&'static str, Direction)], name: &str) -> Result<(), Error> {
        for (program, _) in POD.into_iter().chain(UPLINK) {
            if chosen.iter().all(|(new, _)| *new != program) {
                let pin = self.layout.link(program, name);
                self.all.remove(&pin);
                remove_link(&pin)?;
            }
        }
        Ok(())
    }

    /// Attaches `xdp_uplink` to a device, and removes it where it is not wanted or where it runs in another
    /// mode. The tc programs do its work meanwhile.
    pub(super) fn xdp(
        &mut self,
        programs: &Programs,
        wanted: Xdp,
        device: &Device,
    ) -> Result<(), Error> {
        let (index, name) = (device.index, &device.name);
        let modes = if programs.has(XDP) { wanted.modes(device) } else { &[] };
        let mut modes = modes.to_vec();
        // What an agent before has found to work is not tried anew.
        modes.sort_by_key(|mode| !self.layout.link(mode.pin(), name).exists());
        for mode in modes {
            for other in Mode::ALL.into_iter().filter(|other| *other != mode) {
                self.remove_pin(&self.layout.link(other.pin(), name))?;
            }
            let target = Target::Xdp { index, name: name.clone(), mode };
            match self.attach(programs, XDP, target, Since::Unknown) {
                Ok(()) => {
                    tracing::info!(device = name, mode = mode.name(), "frames are turned round");
                    return Ok(());
                }
                Err(error) if wanted == Xdp::Auto => {
                    tracing::warn!(device = name, mode = mode.name(), %error, "no XDP in this mode");
                }
                Err(error) => return Err(Error::xdp(wanted, name, error)),
            }
        }
        self.remove_xdp(name)
    }

    /// Removes `xdp_uplink` from a device, also that of an earlier agent.
    pub(super) fn remove_xdp(&mut self, name: &str) -> Result<(), Error> {
        for mode in Mode::ALL {
            self.remove_pin(&self.layout.link(mode.pin(), name))?;
        }
        Ok(())
    }

    /// Devices with `xdp_uplink`, and the name of its mode there.
    pub(super) fn xdp_modes(&self) -> Vec<(String, &'static str)> {
        let mode = |attachment: &Attachment| match &attachment.target {
            Target::Xdp { name, mode, .. } => Some((name.clone(), mode.name())),
            Target::Device { .. } | Target::Cgroup { .. } => None,
        };
        self.all.values().filter_map(mode).collect()
    }

    fn remove_pin(&mut self, pin: &Path) -> Result<(), Error> {
        self.all.remove(pin);
        remove_link(pin).map(drop)
    }

    /// Attaches the socket hooks to a cgroup.
    pub(super) fn sockets(&mut self, programs: &Programs, folder: &Path) -> Result<(), Error> {
        let id = fs::metadata(folder)
            .map_err(Error::system(format!("looking at {}", folder.display())))?
            .ino();
        for (program, attach_type) in SOCKET {
            let folder = folder.to_owned();
            let target = Target::Cgroup { id, folder, attach_type: attach_type as u32 };
            self.attach(programs, program, target, Since::Unknown)?;
        }
        Ok(())
    }

    /// Removes the socket hooks, also those of an earlier agent.
    pub(super) fn remove_sockets(&mut self) -> Result<(), Error> {
        for (program, _) in SOCKET {
            let pin = self.layout.link(program, CGROUP);
            self.all.remove(&pin);
            remove_link(&pin)?;
        }
        Ok(())
    }

    /// Removes what is attached to devices that are not in `keep`, and the pins of devices that are
    /// gone. Returns how many went.
    pub(super) fn remove_others(&mut self, keep: &[u32]) -> Result<usize, Error> {
        self.early.retain(|index| device_name(*index).is_some());
        let keep = &*self.early.iter().chain(keep).copied().collect::<Vec<_>>();
        let gone =
            |target: &Target| target.device().is_some_and(|(index, _)| !keep.contains(&index));
        let mut removed = self.remove_where(gone)?;
        removed += self.remove_stale_pins(keep)?;
        if !self.tcx || !self.filters_checked {
            removed += remove_stale_filters(keep)?;
            self.filters_checked = true;
        }
        Ok(removed)
    }

    fn remove_where(&mut self, gone: impl Fn(&Target) -> bool) -> Result<usize, Error> {
        let pins = self.all.iter().filter(|(_, attachment)| gone(&attachment.target));
        let pins: Vec<PathBuf> = pins.map(|(pin, _)| pin.clone()).collect();
        for pin in &pins {
            if let Some(attachment) = self.all.remove(pin) {
                remove(pin, &attachment)?;
            }
        }
        Ok(pins.len())
    }

    /// Pins that an earlier agent left on devices that are not in `keep`.
    fn remove_stale_pins(&self, keep: &[u32]) -> Result<usize, Error> {
        let mut removed = 0;
        for pin in entries(&self.layout.links())? {
            let name = pin.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let tc = POD.iter().chain(&UPLINK).map(|(program, _)| *program);
            let on_device = tc.chain(Mode::ALL.map(Mode::pin)).any(|program| {
                name.strip_prefix(program).is_some_and(|rest| rest.starts_with('-'))
            });
            let Some((_, info)) = open_link(&pin)?.filter(|_| on_device) else { continue };
            let ours = self.all.contains_key(&pin);
            // A device that was given another name while no agent ran.
            let renamed = self.all.values().any(|attachment| {
                name.starts_with(attachment.pin_name()) && attachment.target.is_of(&info)
            });
            if !keep.contains(&info.device()) || (renamed && !ours) {
                remove_link(&pin)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Attaches again what is no longer attached, pins again what is no longer pinned, forgets
    /// devices that are gone. What was found and attached again since the last time counts too.
    pub(super) fn ensure(&mut self, programs: &Programs) -> Result<Repairs, Error> {
        let mut repairs = Repairs::default();
        let gone = |target: &Target| match target {
            Target::Device { index, name, .. } | Target::Xdp { index, name, .. } => {
                device_name(*index).as_deref() != Some(name.as_str())
            }
            Target::Cgroup { id, folder, .. } => {
                fs::metadata(folder).map_or(true, |found| found.ino() != *id)
            }
        };
        self.remove_where(gone)?;
        let mut detached = Vec::new();
        for (pin, attachment) in &self.all {
            let program = info_of_program(programs, attachment.program)?.id;
            if !is_attached(attachment, program)? {
                detached.push((attachment.program, attachment.target.clone()));
            } else if let Holder::Link(fd) = &attachment.holder {
                repairs.pins += u32::from(pin_again(fd, pin)?);
            }
        }
        for (program, target) in detached {
            match self.attach(programs, program, target, Since::Unknown) {
                // It went at this very moment.
                Err(Error::NoDevice(_)) => {}
                // Somebody else has taken its place, which nothing depends on.
                Err(error) if program == XDP => {
                    tracing::warn!(%error, "XDP is given up");
                    self.all.retain(|_, attachment| attachment.program != XDP);
                }
                result => result?,
            }
        }
        repairs.links = std::mem::take(&mut self.repaired);
        Ok(repairs)
    }

    fn attach(
        &mut self,
        programs: &Programs,
        program: &'static str,
        target: Target,
        since: Since,
    ) -> Result<(), Error> {
        let (place, link) = match &target {
            Target::Device { name, .. } => (name.as_str(), self.tcx),
            Target::Xdp { name, .. } => (name.as_str(), true),
            Target::Cgroup { .. } => (CGROUP, true),
        };
        let pin = self.layout.link(pin_name(program, &target), place);
        let known = self.all.get(&pin).filter(|known| known.target == target);
        let lost = match known {
            Some(known) => !is_attached(known, info_of_program(programs, program)?.id)?,
            None => false,
        };
        if known.is_some() && !lost {
            return Ok(());
        }
        let holder = if link {
            Holder::Link(attach_link(programs, program, &target, &pin, since)?)
        } else {
            attach_filter(programs, program, &target, &pin)?
        };
        tracing::debug!(program, place, link, "attached");
        self.repaired += u32::from(lost);
        self.all.insert(pin, Attachment { program, target, holder });
        Ok(())
    }
}

/// Our filters on devices that are not in `keep`.
fn remove_stale_filters(keep: &[u32]) -> Result<usize, Error> {
    let mut removed = 0;
    for (index, name) in devices()?.into_iter().filter(|(index, _)| !keep.contains(index)) {
        removed += remove_filters(index, &name)?.len();
    }
    Ok(removed)
}

/// Indices and names of all devices.
pub(super) fn devices() -> Result<Vec<(u32, String)>, Error> {
    let all = nix::net::if_::if_nameindex()
        .map_err(|error| Error::system("listing devices")(error.into()))?;
    Ok(all.iter().map(|one| (one.index(), one.name().to_string_lossy().into_owned())).collect())
}

fn device_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    Some(name.to_string_lossy().into_owned())
}

/// The files of a folder; none if it is not there.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let what = || Error::system(format!("reading {}", folder.display()));
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(what())?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(what()(error)),
    }
}

//! The programs of a new pod's interface are attached by a thread of their own, which does nothing but
//! wait for the kernel's word of new devices: before the pod has an address, in most cases, and whatever
//! else the agent is busy with.

use super::{Device, Error, attach::Attachments, devices::device, load::Programs, lock};
use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage},
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

/// Attaches the programs of pods' interfaces beside whatever else the datapath is at.
#[derive(Clone, Debug)]
pub struct PodAttacher {
    pub(super) programs: Arc<Programs>,
    pub(super) attachments: Arc<Mutex<Attachments>>,
}

impl PodAttacher {
    /// Attaches `from_pod` and `to_pod` to a device that has nothing of ours. It keeps them at least
    /// until it has been attached to by [`super::Datapath::attach_pod`] or is gone.
    pub fn attach(&self, device: &Device) -> Result<(), Error> {
        lock(&self.attachments).early(&self.programs, device.index, &device.name)
    }
}

/// Calls `appeared` for every device that appears in the calling thread's network namespace from now on
/// as a pod's interface does: with its other end in another namespace. The second argument is the time
/// of the kernel's word. For as long as the process lives.
pub fn watch_pod_devices(
    appeared: impl FnMut(&Device, Instant) + Send + 'static,
) -> Result<(), Error> {
    let what = "following new devices";
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::system(what))?;
    socket.bind(&SocketAddr::new(0, LINK_GROUP)).map_err(Error::system(what))?;
    // Listed after the socket listens: none can appear in between.
    let known = super::device_names()?.into_keys().collect();
    let thread = thread::Builder::new().name("pod-devices".into());
    let follow = move || {
        let error = follow(&socket, known, appeared);
        tracing::warn!(%error, "new pods' interfaces are no longer seen at once");
    };
    thread.spawn(follow).map(drop).map_err(Error::system(what))
}

fn follow(
    socket: &Socket,
    mut known: HashSet<u32>,
    mut appeared: impl FnMut(&Device, Instant),
) -> io::Error {
    loop {
        let received = match socket.recv_from_full() {
            Ok((received, _)) => received,
            // Too much at once: what was lost comes by the agent's list of all devices.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error,
        };
        let now = Instant::now();
        let mut rest = &received[..];
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                    if link.header.interface_family == AddressFamily::Unspec =>
                {
                    let device = device(&link).filter(|device| device.peer_elsewhere);
                    if let Some(device) = device.filter(|device| known.insert(device.index)) {
                        appeared(&device, now);
                    }
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                    if link.header.interface_family == AddressFamily::Unspec =>
                {
                    known.remove(&link.header.index);
                }
                _ => {}
            }
        }
    }
}

/// `RTMGRP_LINK`.
const LINK_GROUP: u32 = 1;

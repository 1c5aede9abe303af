//! What the socket hooks remember of a socket.

use crate::{Addr, Be16};
use bytemuck::{Pod, Zeroable};

/// Key of `SOCKETS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
pub struct SocketKey {
    /// The kernel's number of the socket (`bpf_get_socket_cookie`), never used twice.
    pub cookie: u64,
    /// An address that the socket sent to, or that it hears from.
    pub addr: Addr,
    /// The port there.
    pub port: Be16,
    /// Zero.
    pub pad: [u8; 6],
}

/// Value of `SOCKETS`: what the key's address becomes. From a frontend it leads to the backend that
/// was chosen, from a backend to the frontend that was dialled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct SocketPeer {
    /// The other address.
    pub addr: Addr,
    /// The other port.
    pub port: Be16,
    /// Zero.
    pub pad: [u8; 2],
    /// The backend that was chosen.
    pub backend: u32,
}

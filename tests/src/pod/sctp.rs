//! SCTP without a kernel that speaks it: INIT and INIT ACK (RFC 9260, 3.3.2 and 3.3.3) by raw sockets.
//!
//! That is the part of SCTP that translation is about: the packet that opens an association, and
//! the answer to it. The server's words travel in the state cookie, which is the server's own affair.

use super::server::UDP_POLL;
use crate::proto::Verdict;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
            SockaddrStorage,
            sockopt::{Ipv4RecvErr, Ipv6RecvErr, ReceiveTimeout},
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use std::{
    fs,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
    time::{Duration, Instant},
};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// The parameter of an INIT ACK that carries the state cookie.
const STATE_COOKIE: u16 = 7;
/// Length of an INIT chunk without parameters.
const INIT_LENGTH: u16 = 20;
/// Tag of every association: there is nothing here to be protected from strangers.
const TAG: u32 = 0x1ab0_1ab0;
/// Source ports of clients that did not choose one: beside the range that the kernel gives out.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A raw socket that answers INITs to one port of one address.
pub(super) struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = raw(address.ip())?;
        socket::bind(socket.as_raw_fd(), &storage(address.ip()))?;
        Ok(Self { socket, address })
    }

    /// Answers with `name` and the client until closed.
    pub(super) fn serve(&self, name: &str, closed: &AtomicBool) {
        while !closed.load(Ordering::Acquire) {
            let Ok((packet, from)) = receive(&self.socket, UDP_POLL) else { continue };
            if packet.chunk != INIT || packet.destination != self.address.port() {
                continue;
            }
            let client = SocketAddr::new(from, packet.source);
            let answer = Packet {
                source: packet.destination,
                destination: packet.source,
                tag: packet.initiate,
                chunk: INIT_ACK,
                initiate: TAG,
                cookie: format!("{name} {client}").into_bytes(),
            };
            socket::sendto(
                self.socket.as_raw_fd(),
                &answer.bytes(),
                &storage(from),
                MsgFlags::empty(),
            )
            .ok();
        }
    }
}

/// A raw socket that opens associations with one server.
pub(super) struct Client {
    socket: OwnedFd,
    to: SocketAddr,
    port: u16,
}

impl Client {
    pub(super) fn open(to: SocketAddr, source_port: u16) -> io::Result<Self> {
        let socket = raw(to.ip())?;
        // Errors come with the packets that they are about.
        match to {
            SocketAddr::V4(_) => socket::setsockopt(&socket, Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => socket::setsockopt(&socket, Ipv6RecvErr, &true)?,
        }
        socket::connect(socket.as_raw_fd(), &storage(to.ip()))?;
        let port = if source_port == 0 { next_port()? } else { source_port };
        Ok(Self { socket, to, port })
    }

    /// Sends an INIT and waits for the answer.
    pub(super) fn ask(&self, timeout: Duration) -> io::Result<Verdict> {
        let init = Packet {
            source: self.port,
            destination: self.to.port(),
            tag: 0,
            chunk: INIT,
            initiate: TAG,
            cookie: Vec::new(),
        };
        let deadline = Instant::now() + timeout;
        self.forget_errors()?;
        self.send(&init.bytes(), deadline)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Verdict::Timeout);
            }
            let (packet, _) = match receive(&self.socket, left) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
                Err(error) => match self.errors()? {
                    Errors { own: Some(own), .. } => return Err(own),
                    Errors { of_others: true, .. } => continue,
                    Errors { .. } => return Err(error),
                },
                Ok(received) => received,
            };
            // The kernel gives every raw socket the answers to all others of the same server.
            if packet.source != self.to.port() || packet.destination != self.port {
                continue;
            }
            if packet.chunk != INIT_ACK || packet.tag != TAG {
                return Ok(Verdict::Broken(format!("chunk {}, tag {}", packet.chunk, packet.tag)));
            }
            return Ok(Verdict::Answer(String::from_utf8_lossy(&packet.cookie).into_owned()));
        }
    }
}

/// What the network has said of packets that were sent from here.
#[derive(Debug, Default)]
struct Errors {
    /// Of one of this client's.
    own: Option<io::Error>,
    /// Of one of others: the kernel tells every raw socket of the packets of all others to the same
    /// server.
    of_others: bool,
}

impl Client {
    /// Sends, however often others are told in between that nobody serves them.
    fn send(&self, packet: &[u8], deadline: Instant) -> io::Result<()> {
        loop {
            let Err(error) = socket::send(self.socket.as_raw_fd(), packet, MsgFlags::empty())
            else {
                return Ok(());
            };
            match self.errors()? {
                Errors { own: Some(own), .. } => return Err(own),
                Errors { of_others: true, .. } if Instant::now() < deadline => {}
                Errors { .. } => return Err(error.into()),
            }
        }
    }

    /// Drops what is left of requests before.
    fn forget_errors(&self) -> io::Result<()> {
        self.errors().map(drop)
    }

    /// Takes all errors that wait. The kernel has kept the packet of each: its first bytes are the
    /// source port.
    fn errors(&self) -> io::Result<Errors> {
        let mut errors = Errors::default();
        loop {
            let mut quoted = [0; 2];
            let mut parts = [IoSliceMut::new(&mut quoted)];
            let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let message = match socket::recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                flags,
            ) {
                Err(Errno::EAGAIN) => return Ok(errors),
                result => result?,
            };
            let told = message.cmsgs()?.find_map(|part| match part {
                ControlMessageOwned::Ipv4RecvErr(told, _)
                | ControlMessageOwned::Ipv6RecvErr(told, _) => Some(told.ee_errno),
                _ => None,
            });
            let port = message.iovs().next().and_then(|bytes| bytes.try_into().ok());
            match told {
                Some(errno) if port.map(u16::from_be_bytes) == Some(self.port) => {
                    errors.own = Some(io::Error::from_raw_os_error(errno.cast_signed()));
                }
                _ => errors.of_others = true,
            }
        }
    }
}

/// The parts of a packet with an INIT or INIT ACK that matter here.
#[derive(Debug, PartialEq)]
struct Packet {
    source: u16,
    destination: u16,
    tag: u32,
    chunk: u8,
    initiate: u32,
    /// The state cookie of an INIT ACK.
    cookie: Vec<u8>,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let Self { source, destination, tag, chunk, initiate, cookie } = self;
        let parameter = if cookie.is_empty() { 0 } else { 4 + cookie.len() as u16 };
        let mut bytes = Vec::new();
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([*chunk, 0]);
        bytes.extend((INIT_LENGTH + parameter).to_be_bytes());
        bytes.extend(initiate.to_be_bytes());
        bytes.extend(0x1_0000_u32.to_be_bytes());
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(initiate.to_be_bytes());
        if parameter > 0 {
            bytes.extend(STATE_COOKIE.to_be_bytes());
            bytes.extend(parameter.to_be_bytes());
            bytes.extend(cookie);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let checksum = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&checksum);
        bytes
    }

    /// Reads a packet, whose checksum must be right.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let mut blank = bytes.to_vec();
        blank.get_mut(8..12)?.fill(0);
        if crc32c(&blank).swap_bytes() != long(8)? {
            return None;
        }
        let cookie = match short(32) {
            Some(STATE_COOKIE) => bytes.get(36..32 + usize::from(short(34)?))?.to_vec(),
            _ => Vec::new(),
        };
        Some(Self {
            source: short(0)?,
            destination: short(2)?,
            tag: long(4)?,
            chunk: *bytes.get(12)?,
            initiate: long(16)?,
            cookie,
        })
    }
}

/// CRC-32C bit by bit (RFC 9260, appendix A); the packets are short.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

fn raw(ip: IpAddr) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)?)
}

/// Raw sockets know no ports.
fn storage(ip: IpAddr) -> SockaddrStorage {
    SocketAddr::new(ip, 0).into()
}

/// The next packet and its sender; what is no packet of ours is invalid data.
fn receive(socket: &OwnedFd, timeout: Duration) -> io::Result<(Packet, IpAddr)> {
    let patience = TimeVal::microseconds(timeout.as_micros().max(1).try_into().unwrap_or(i64::MAX));
    socket::setsockopt(socket, ReceiveTimeout, &patience)?;
    let mut buffer = [0; 2048];
    let (length, from) = match socket::recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer)
    {
        Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
        result => result?,
    };
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    // Over IPv4 a raw socket gets the IP header too.
    let (from, header) = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => (IpAddr::V4(v4.ip()), usize::from(buffer[0] & 0xf) * 4),
        (_, Some(v6)) => (IpAddr::V6(v6.ip()), 0),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let packet = buffer.get(header..length).and_then(Packet::parse);
    Ok((packet.ok_or(io::ErrorKind::InvalidData)?, from))
}

/// A source port that no client of this process has had for long; clients of other processes in the
/// same namespace start elsewhere in the range.
fn next_port() -> io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    if NEXT.load(Ordering::Relaxed) == 0 {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let start = uuid.get(..4).and_then(|hex| u16::from_str_radix(hex, 16).ok()).unwrap_or(1);
        NEXT.compare_exchange(0, start.max(1), Ordering::Relaxed, Ordering::Relaxed).ok();
    }
    Ok(PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_were_written() {
        for cookie in ["", "near-1 10.10.3.2:20000"] {
            let packet = Packet {
                source: 20_000,
                destination: 80,
                tag: 7,
                chunk: INIT_ACK,
                initiate: TAG,
                cookie: cookie.into(),
            };
            let bytes = packet.bytes();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(Packet::parse(&bytes).as_ref(), Some(&packet));
            let mut damaged = bytes;
            damaged[3] ^= 1;
            assert_eq!(Packet::parse(&damaged), None);
        }
    }

    /// The kernel does not speak SCTP: whoever asks it is told so.
    #[test]
    fn errors_are_of_those_whose_packet_they_quote() {
        // Not the client's own address: its packets would come back to its own socket.
        let to: SocketAddr = "127.0.0.2:80".parse().expect("an address");
        let Ok(asks) = Client::open(to, 20_001) else {
            eprintln!("skipped: raw sockets need root");
            return;
        };
        let waits = Client::open(to, 20_002).expect("a second socket");
        let error = asks.ask(Duration::from_secs(30)).expect_err("nobody speaks SCTP");
        assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
        let errors = waits.errors().expect("its errors");
        assert!(errors.own.is_none() && errors.of_others, "{errors:?}");
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}

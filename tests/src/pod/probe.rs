//! The client: one request, one verdict.

use super::sctp;
use crate::proto::{Ask, Proto, Verdict, pattern};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage,
            sockopt::{ReuseAddr, SendTimeout},
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

/// The longest pause inside a long transfer before it counts as broken: an interruption of the
/// network must not pass as slowness.
const STALL: Duration = Duration::from_secs(5);
/// Timeouts after which a series of requests ends.
const MAX_TIMEOUTS: u32 = 3;

impl From<io::Error> for Verdict {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            _ => match error.raw_os_error() {
                Some(errno) => Self::Errno(errno),
                None => Self::Broken(error.to_string()),
            },
        }
    }
}

/// Makes the request on a new socket.
pub(super) fn ask(ask: &Ask) -> Verdict {
    match Kept::open(ask) {
        Ok(mut kept) => kept.again(&ask.query, ask.timeout_ms),
        Err(verdict) => verdict,
    }
}

/// Makes the request `times` times and counts the verdicts; gives up where nothing comes back.
pub(super) fn spread(request: &Ask, times: u32) -> BTreeMap<Verdict, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(ask(request)).or_default() += 1;
        if counts.get(&Verdict::Timeout).is_some_and(|timeouts| *timeouts >= MAX_TIMEOUTS) {
            break;
        }
    }
    counts
}

/// An open socket that can be asked again.
pub(super) enum Kept {
    /// A connection that speaks HTTP with keep-alive.
    Tcp(TcpStream),
    /// A UDP socket, and the address to send to if it is not connected.
    Udp(UdpSocket, Option<SocketAddr>),
    /// A raw socket that opens associations.
    Sctp(sctp::Client),
}

impl Kept {
    pub(super) fn open(ask: &Ask) -> Result<Self, Verdict> {
        let Ask { proto, to, query: _, source_port, connected, timeout_ms } = ask;
        Ok(match proto {
            Proto::Tcp => {
                let timeout = Duration::from_millis(*timeout_ms);
                let stream = match source_port {
                    0 => TcpStream::connect_timeout(to, timeout)?,
                    port => connect_from(*port, *to, timeout)?,
                };
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
            Proto::Udp => {
                let socket = UdpSocket::bind(any_address(*to, *source_port))?;
                if *connected {
                    socket.connect(to)?;
                }
                Self::Udp(socket, (!connected).then_some(*to))
            }
            Proto::Sctp => Self::Sctp(sctp::Client::open(*to, *source_port)?),
        })
    }

    /// Asks and waits for the answer.
    pub(super) fn again(&mut self, query: &str, timeout_ms: u64) -> Verdict {
        let timeout = Duration::from_millis(timeout_ms);
        match self {
            Self::Tcp(stream) => get(stream, query, timeout),
            Self::Udp(socket, to) => datagram(socket, *to, query, timeout),
            Self::Sctp(client) => client.ask(timeout),
        }
        .unwrap_or_else(Verdict::from)
    }
}

/// Connects from a port of the caller's choice, even if an old connection of it still lingers.
fn connect_from(port: u16, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None::<SockProtocol>)?;
    socket::setsockopt(&socket, ReuseAddr, &true)?;
    // Bounds connect() as well.
    let patience = TimeVal::milliseconds(timeout.as_millis().try_into().unwrap_or(i64::MAX));
    socket::setsockopt(&socket, SendTimeout, &patience)?;
    let from = SockaddrStorage::from(any_address(to, port));
    socket::bind(socket.as_raw_fd(), &from)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        Err(errno) => Err(errno.into()),
        Ok(()) => Ok(socket.into()),
    }
}

/// The wildcard address of the family of `to`.
fn any_address(to: SocketAddr, port: u16) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

fn get(mut stream: &TcpStream, path: &str, timeout: Duration) -> io::Result<Verdict> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (status, length) = read_head(&mut reader)?;
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length as usize, 0);
            reader.read_exact(&mut body)?;
        }
        None => {
            reader.read_to_end(&mut body)?;
        }
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(if status == 200 { Verdict::Answer(body) } else { Verdict::Status(status, body) })
}

/// Status code and, if it is given, length of the body.
fn read_head(reader: &mut impl io::BufRead) -> io::Result<(u16, Option<u64>)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("answer begins {line:?}")))?;
    let mut length = None;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim_end().is_empty() {
            return Ok((status, length));
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
}

fn datagram(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    query: &str,
    timeout: Duration,
) -> io::Result<Verdict> {
    socket.set_read_timeout(Some(timeout))?;
    match to {
        Some(to) => socket.send_to(query.as_bytes(), to)?,
        None => socket.send(query.as_bytes())?,
    };
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = socket.recv_from(&mut buffer)?;
    if let Some(to) = to
        && from != to
    {
        return Ok(Verdict::Broken(format!("asked {to}, {from} answered")));
    }
    let answer = buffer.get(..length).unwrap_or_default();
    Ok(Verdict::Answer(String::from_utf8_lossy(answer).into_owned()))
}

/// Reads a long answer and compares it byte by byte.
pub(super) fn transfer(to: SocketAddr, bytes: u64, millis: u64) -> io::Result<Verdict> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, STALL)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.write_all(format!("GET /bytes/{bytes}/{millis} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut reader = BufReader::with_capacity(1 << 16, &stream);
    let (status, length) = read_head(&mut reader)?;
    if status != 200 || length != Some(bytes) {
        return Ok(Verdict::Status(status, format!("length {length:?}")));
    }
    let mut offset = 0;
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            break;
        }
        for byte in piece {
            if *byte != pattern(offset) {
                return Ok(Verdict::Broken(format!("wrong byte at {offset}")));
            }
            offset += 1;
        }
        let length = piece.len();
        reader.consume(length);
    }
    Ok(if offset == bytes {
        Verdict::Answer(format!("{bytes} bytes in {} ms", start.elapsed().as_millis()))
    } else {
        Verdict::Broken(format!("{offset} of {bytes} bytes"))
    })
}

//! The server of every pod: says who it is and whom it sees.
//!
//! HTTP: `/` (name and client), `/hostname`, `/clientip` (address:port as seen), `/localaddr`,
//! `/seen` (own address and client), `/bytes/N/MS` (N bytes of the known pattern, spread over MS
//! milliseconds), `/length/ANYTHING` (length of the path, however long). UDP, one datagram: `who`
//! (name and client), `hostname`, `clientip`, `localaddr`, `seen`, `echo TEXT`. SCTP answers every
//! INIT with name and client.

use super::{lock, sctp};
use crate::proto::{Proto, pattern};
use anyhow::{Context as _, Result};
use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The largest datagram that UDP carries over IPv4.
const MAX_DATAGRAM: usize = 65_507;
/// How often a server of datagrams looks whether it was closed.
pub(super) const UDP_POLL: Duration = Duration::from_millis(50);
/// Bytes that a long answer sends at a time.
const CHUNK: u64 = 32 << 10;

/// The listening sockets of one pod.
pub(super) struct Server {
    name: Arc<str>,
    open: Mutex<Vec<Socket>>,
}

struct Socket {
    closed: Arc<AtomicBool>,
    address: SocketAddr,
    proto: Proto,
    thread: thread::JoinHandle<()>,
}

impl Server {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), open: Mutex::default() }
    }

    /// Listens on each address by itself, never on the wildcard: a UDP answer from a wildcard
    /// socket leaves with whatever address the route prefers, not with the one that was asked.
    pub(super) fn listen(&self, addresses: &[(Proto, SocketAddr)]) -> Result<()> {
        for &(proto, address) in addresses {
            let closed = Arc::new(AtomicBool::new(false));
            let (name, stop) = (Arc::clone(&self.name), Arc::clone(&closed));
            let listening = || format!("listen on {address}/{proto}");
            let thread = match proto {
                Proto::Sctp => {
                    let socket = sctp::Listener::bind(address).with_context(listening)?;
                    thread::spawn(move || socket.serve(&name, &stop))
                }
                Proto::Tcp => {
                    let listener = TcpListener::bind(address).with_context(listening)?;
                    thread::spawn(move || serve_tcp(&name, &listener, &stop))
                }
                Proto::Udp => {
                    let socket = UdpSocket::bind(address).with_context(listening)?;
                    socket.set_read_timeout(Some(UDP_POLL))?;
                    thread::spawn(move || serve_udp(&name, &socket, &stop))
                }
            };
            lock(&self.open).push(Socket { closed, address, proto, thread });
        }
        Ok(())
    }

    /// Closes every socket and returns when that is done.
    pub(super) fn close(&self) {
        for Socket { closed, address, proto, thread } in lock(&self.open).drain(..) {
            closed.store(true, Ordering::Release);
            if proto == Proto::Tcp {
                // Wakes the thread from accept().
                TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
            }
            thread.join().ok();
        }
    }
}

fn serve_tcp(name: &Arc<str>, listener: &TcpListener, closed: &AtomicBool) {
    for stream in listener.incoming() {
        if closed.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let name = Arc::clone(name);
        // A client that goes away in the middle of an answer is its own affair.
        thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                converse(&name, &stream).ok();
                stream.shutdown(Shutdown::Both).ok();
            })
            .ok();
    }
}

/// Serves requests on one connection until the client has had enough.
fn converse(name: &str, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut close = !request.trim_end().ends_with("HTTP/1.1");
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim_end().is_empty() {
                break;
            }
            close |= header.trim_end().eq_ignore_ascii_case("connection: close");
        }
        let path = request.split_whitespace().nth(1).unwrap_or("/");
        respond(name, stream, path)?;
        if close {
            return Ok(());
        }
    }
}

fn respond(name: &str, mut stream: &TcpStream, path: &str) -> io::Result<()> {
    let client = unmapped(stream.peer_addr()?);
    let body = match path {
        "/" => format!("{name} {client}\n"),
        "/hostname" => name.to_owned(),
        "/clientip" => client.to_string(),
        "/localaddr" => unmapped(stream.local_addr()?).to_string(),
        "/seen" => format!("{} {client}", unmapped(stream.local_addr()?)),
        _ if path.starts_with("/length/") => path.len().to_string(),
        _ => match long_answer(path) {
            Some((bytes, millis)) => return send_pattern(stream, bytes, millis),
            None => return stream.write_all(&head("404 Not Found", 0)),
        },
    };
    let mut answer = head("200 OK", body.len() as u64);
    answer.extend_from_slice(body.as_bytes());
    stream.write_all(&answer)
}

fn head(status: &str, length: u64) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
}

/// Length and duration in a path `/bytes/N/MS`.
fn long_answer(path: &str) -> Option<(u64, u64)> {
    let (bytes, millis) = path.strip_prefix("/bytes/")?.split_once('/')?;
    Some((bytes.parse().ok()?, millis.parse().ok()?))
}

fn send_pattern(mut stream: &TcpStream, bytes: u64, millis: u64) -> io::Result<()> {
    stream.write_all(&head("200 OK", bytes))?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        let end = bytes.min(sent + CHUNK);
        let chunk: Vec<u8> = (sent..end).map(pattern).collect();
        stream.write_all(&chunk)?;
        sent = end;
        let due = Duration::from_millis(millis * sent / bytes);
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok(())
}

fn serve_udp(name: &str, socket: &UdpSocket, closed: &AtomicBool) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    while !closed.load(Ordering::Acquire) {
        // Timeouts, and ICMP errors for earlier answers.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let question = buffer.get(..length).unwrap_or_default();
        let answer = match question.trim_ascii_end() {
            b"who" => format!("{name} {}", unmapped(client)).into_bytes(),
            b"hostname" => name.as_bytes().to_vec(),
            b"clientip" => unmapped(client).to_string().into_bytes(),
            b"localaddr" => socket
                .local_addr()
                .map(|local| unmapped(local).to_string().into_bytes())
                .unwrap_or_default(),
            b"seen" => socket
                .local_addr()
                .map(|local| format!("{} {}", unmapped(local), unmapped(client)).into_bytes())
                .unwrap_or_default(),
            _ => question.strip_prefix(b"echo ").unwrap_or_default().to_vec(),
        };
        socket.send_to(&answer, client).ok();
    }
}

/// The address without IPv4 mapping.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

//! What answers.

use super::order::{DRAIN, LAST_REQUEST, PORT, SINK};
use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
};

/// Threads that wait for connections. The kernel wakes one for each, and none is ever started while
/// something is measured.
const WORKERS: usize = 16;

/// Starts the servers, of both families.
pub(super) fn start() -> Result<()> {
    let any = Ipv6Addr::UNSPECIFIED;
    let socket = UdpSocket::bind((any, PORT)).context("listen to datagrams")?;
    spawn(move || echo_datagrams(&socket))?;
    let drain = UdpSocket::bind((any, DRAIN)).context("let datagrams come")?;
    setsockopt(&drain, RcvBuf, &0).context("set SO_RCVBUF")?;
    // It stays open as long as the process lives.
    std::mem::forget(drain);
    let requests = Arc::new(TcpListener::bind((any, PORT)).context("listen to requests")?);
    let streams = Arc::new(TcpListener::bind((any, SINK)).context("listen to streams")?);
    for _ in 0..WORKERS {
        let (requests, streams) = (Arc::clone(&requests), Arc::clone(&streams));
        // A client that goes is no error: it has its answers, or says itself what is missing.
        spawn(move || accept(&requests, |stream| answer(stream).ok()))?;
        spawn(move || accept(&streams, |stream| swallow(stream).ok()))?;
    }
    Ok(())
}

fn spawn(body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().stack_size(256 << 10).spawn(body).context("start a thread")?;
    Ok(())
}

fn accept<T>(listener: &TcpListener, serve: impl Fn(TcpStream) -> Option<T>) {
    loop {
        if let Ok((stream, _)) = listener.accept() {
            serve(stream);
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0];
    while stream.read(&mut request)? == 1 {
        stream.write_all(&request)?;
        if request[0] == LAST_REQUEST {
            break;
        }
    }
    Ok(())
}

/// Takes a stream to its end and says how many bytes it had.
fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&u64::to_ne_bytes(bytes)),
            count => bytes += count as u64,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = [0; 64];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            // One that is lost on its way back is missed by its sender.
            socket.send_to(&datagram[..length], from).ok();
        }
    }
}

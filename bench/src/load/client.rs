//! What sends.

use super::{
    frames, open_loop,
    order::{Kind, LAST_REQUEST, REQUEST, Report, Work},
};
use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use nix::sys::socket::{setsockopt, sockopt::Linger};
use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// How long an answer may take before the request has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// What latencies are cut to, in nanoseconds.
const LONGEST_LATENCY: u64 = 60_000_000_000;
/// How long [`wait_until`] waits for one answer. Refusals are rare where the kernel limits their rate.
const ATTEMPT: Duration = Duration::from_millis(20);
/// How long all attempts must have failed for it to be closed.
const CLOSED: Duration = Duration::from_millis(100);
/// What streams are written in.
const CHUNK: usize = 128 << 10;

/// Sends for as long as the work says.
pub(super) fn work(work: &Work) -> Result<Report> {
    let whole = Duration::from_millis(work.millis);
    let mut recorder = Recorder::new(whole / 10, whole);
    match work.kind {
        Kind::Streams(connections) => return streams(work.to, connections, whole),
        Kind::Flood => return flood(work.to, whole),
        Kind::Frames => return frames::arrive(work.to, whole),
        Kind::TcpRequests => recorder.record_all(&mut TcpRequests::new(work.to)),
        Kind::UdpRequests => recorder.record_all(&mut UdpRequests::new(work.to)?),
        Kind::TcpConnections => recorder.record_all(&mut || connection(work.to)),
        Kind::Handshakes => {
            while let Some(begin) = recorder.go_on() {
                match TcpStream::connect_timeout(&work.to, PATIENCE) {
                    Ok(stream) => {
                        recorder.record(begin, Ok(()));
                        abort(&stream)?;
                    }
                    Err(error) => recorder.record(begin, Err(error)),
                }
            }
        }
        Kind::TcpRequestsAt { rate } => {
            open_loop::record_all(&mut recorder, rate, &mut TcpRequests::new(work.to));
        }
        Kind::TcpConnectionsAt { rate } => {
            open_loop::record_all(&mut recorder, rate, &mut || connection(work.to));
        }
    }
    Ok(recorder.report())
}

/// One request and its answer.
pub(super) trait Request {
    fn send(&mut self) -> io::Result<()>;
}

impl<F: FnMut() -> io::Result<()>> Request for F {
    fn send(&mut self) -> io::Result<()> {
        self()
    }
}

/// Requests over one connection; after a failure over another one.
struct TcpRequests {
    to: SocketAddr,
    stream: Option<TcpStream>,
}

impl TcpRequests {
    fn new(to: SocketAddr) -> Self {
        Self { to, stream: None }
    }
}

impl Request for TcpRequests {
    fn send(&mut self) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.to)?,
        };
        let mut answer = [0];
        stream.write_all(&[REQUEST])?;
        stream.read_exact(&mut answer)?;
        self.stream = Some(stream);
        Ok(())
    }
}

struct UdpRequests {
    to: SocketAddr,
    socket: UdpSocket,
}

impl UdpRequests {
    fn new(to: SocketAddr) -> Result<Self> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).context("open a socket")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { to, socket })
    }
}

impl Request for UdpRequests {
    fn send(&mut self) -> io::Result<()> {
        self.socket.send_to(&[REQUEST], self.to)?;
        self.socket.recv_from(&mut [0]).map(drop)
    }
}

/// Sends datagrams, and counts those that it sent.
fn flood(to: SocketAddr, whole: Duration) -> Result<Report> {
    /// Datagrams between two looks at the clock.
    const BATCH: u64 = 16;
    let socket = UdpRequests::new(to)?.socket;
    socket.connect(to)?;
    let start = Instant::now();
    let mut report = Report::default();
    while start.elapsed() < whole {
        for _ in 0..BATCH {
            match socket.send(&[REQUEST; 18]) {
                Ok(_) => report.requests += 1,
                Err(error) => {
                    report.failures += 1;
                    report.failure = Some(error.to_string());
                }
            }
        }
    }
    report.nanos = start.elapsed().as_nanos() as u64;
    Ok(report)
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection, a request, its answer, and the end. The server closes first, so that the client's
/// ports are free again.
fn connection(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[LAST_REQUEST])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer[..1])?;
    match stream.read(&mut answer)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than an answer")),
    }
}

/// Ends a connection without a farewell, and so without a port that rests.
fn abort(stream: &TcpStream) -> Result<()> {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, Linger, &now).context("set SO_LINGER")
}

/// Keeps the time, and notes each request.
pub(super) struct Recorder {
    warm: Instant,
    /// From here on requests count. A first packet that is lost makes the warm-up longer and not
    /// what comes after it shorter.
    start: Option<Instant>,
    whole: Duration,
    latencies: Histogram<u64>,
    failures: u64,
    failure: Option<String>,
}

impl Recorder {
    fn new(warm_up: Duration, whole: Duration) -> Self {
        Self {
            warm: Instant::now() + warm_up,
            start: None,
            whole,
            latencies: Histogram::new_with_max(LONGEST_LATENCY, 3).expect("sound bounds"),
            failures: 0,
            failure: None,
        }
    }

    /// The time, unless it is over.
    pub(super) fn go_on(&self) -> Option<Instant> {
        let now = Instant::now();
        self.start.is_none_or(|start| now < start + self.whole).then_some(now)
    }

    /// Notes what came of a request that began, or was to begin, at `begin`.
    pub(super) fn record(&mut self, begin: Instant, result: io::Result<()>) {
        let now = Instant::now();
        if self.start.is_none() {
            self.start = (now >= self.warm).then_some(now);
            return;
        }
        match result {
            Ok(()) => self.latencies.saturating_record((now - begin).as_nanos() as u64),
            Err(error) => {
                self.failures += 1;
                self.failure = Some(error.to_string());
            }
        }
    }

    fn record_all(&mut self, request: &mut impl Request) {
        while let Some(begin) = self.go_on() {
            let result = request.send();
            self.record(begin, result);
        }
    }

    fn report(self) -> Report {
        let latencies = self.latencies.iter_recorded();
        Report {
            nanos: self.start.map_or(0, |start| start.elapsed().as_nanos() as u64),
            requests: self.latencies.len(),
            failures: self.failures,
            failure: self.failure,
            bytes: 0,
            latencies: latencies.map(|at| (at.value_iterated_to(), at.count_at_value())).collect(),
        }
    }
}

/// Writes to all connections in turn until the time is over. The time ends when the last byte has
/// arrived.
fn streams(to: SocketAddr, connections: u8, whole: Duration) -> Result<Report> {
    let start = Instant::now();
    let senders: Vec<_> =
        (0..connections).map(|_| thread::spawn(move || stream(to, start + whole))).collect();
    let mut bytes = 0;
    for sender in senders {
        bytes += sender.join().ok().context("a sender panicked")??;
    }
    Ok(Report { nanos: start.elapsed().as_nanos() as u64, bytes, ..Report::default() })
}

fn stream(to: SocketAddr, end: Instant) -> Result<u64> {
    let mut stream = connect(to)?;
    let chunk = vec![0; CHUNK];
    while Instant::now() < end {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Tries to connect until that succeeds; or until it has failed for a while, if it is not to be `open`: one
/// attempt can fail because this process did not get its CPU.
pub(super) fn wait_until(to: SocketAddr, open: bool, patience: Duration) -> Result<()> {
    let begin = Instant::now();
    let mut success = begin;
    loop {
        ensure!(begin.elapsed() < patience, "nothing changed at {to} in {} s", patience.as_secs());
        match TcpStream::connect_timeout(&to, ATTEMPT) {
            Ok(_) if open => return Ok(()),
            Ok(stream) => {
                abort(&stream)?;
                success = Instant::now();
            }
            Err(_) if !open && success.elapsed() > CLOSED => return Ok(()),
            Err(_) => {}
        }
        thread::sleep(Duration::from_micros(100));
    }
}

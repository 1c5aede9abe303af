//! A network namespace with the process that holds it, serves in it and asks from it.

use crate::{
    host,
    proto::{Ask, Call, LoadReport, Op, Outcome, Proto, Reply, Verdict},
};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// How long a namespace may take to start, and an operation beyond its own timeout.
const SLACK: Duration = Duration::from_secs(30);
/// How long a request may take unless the caller says otherwise: far more than any answer in the
/// lab needs, little enough to wait for where silence is what is expected.
pub const TIMEOUT: Duration = Duration::from_millis(1500);

/// A namespace of the lab. It ends when this value is dropped.
#[derive(Debug)]
pub struct Space {
    name: String,
    cgroup: PathBuf,
    child: Mutex<Child>,
    pid: u32,
    input: Mutex<Option<ChildStdin>>,
    next: AtomicU64,
    waiting: Arc<Mutex<HashMap<u64, mpsc::Sender<Outcome>>>>,
}

impl Space {
    /// Starts the process `name` in `cgroup`, in a network namespace of its own or in that of the
    /// process `join`. The folder of the cgroup is made.
    pub fn start(name: &str, cgroup: &Path, join: Option<u32>) -> Result<Self> {
        std::fs::create_dir_all(cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        let mut command = Command::new(host::pod_binary()?);
        command.args(["pod", "--name", name, "--cgroup"]).arg(cgroup);
        if let Some(pid) = join {
            command.args(["--net", &format!("/proc/{pid}/ns/net")]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let output = child.stdout.take().context("no standard output")?;
        let waiting: Arc<Mutex<HashMap<u64, mpsc::Sender<Outcome>>>> = Arc::default();
        let (greet, greeting) = mpsc::channel();
        lock(&waiting).insert(0, greet);
        let readers = Arc::clone(&waiting);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(Reply { id, outcome }) = serde_json::from_str(&line)
                    && let Some(sender) = lock(&readers).remove(&id)
                {
                    sender.send(outcome).ok();
                }
            }
            // Whoever still waits learns that the process is gone.
            lock(&readers).clear();
        });
        let space = Self {
            name: name.to_owned(),
            cgroup: cgroup.to_owned(),
            pid: child.id(),
            input: Mutex::new(child.stdin.take()),
            child: Mutex::new(child),
            next: AtomicU64::new(1),
            waiting,
        };
        greeting.recv_timeout(SLACK).with_context(|| format!("{name} did not start"))?;
        Ok(space)
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Id of the process that holds the namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The cgroup of the process.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that runs in this namespace and in a cgroup (this one's unless another is given).
    pub fn command_in(&self, cgroup: &Path, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(host::pod_binary()?);
        command.args(["run", "--net", &format!("/proc/{}/ns/net", self.pid), "--cgroup"]);
        command.arg(cgroup).arg("--").arg(program);
        Ok(command)
    }

    /// A command that runs in this namespace and cgroup.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_in(&self.cgroup, program)
    }

    /// Runs a command to its end and returns what it printed.
    pub fn output<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Result<String> {
        let output = self.command(program)?.args(args).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let problem = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} in {}: {text}{problem}", self.name);
        Ok(text)
    }

    /// Gives lines to `ip -batch` in this namespace.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = self
            .command("ip")?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip")?;
        child.stdin.take().context("no standard input")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        let problem = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip in {}: {problem}\n{lines}", self.name);
        Ok(())
    }

    /// Performs an operation that takes up to `patience`.
    pub fn call(&self, op: Op, patience: Duration) -> Result<Outcome> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        lock(&self.waiting).insert(id, sender);
        let mut line = serde_json::to_vec(&Call { id, op })?;
        line.push(b'\n');
        lock(&self.input)
            .as_mut()
            .context("the process was stopped")?
            .write_all(&line)
            .with_context(|| format!("{} is gone", self.name))?;
        match receiver.recv_timeout(patience + SLACK) {
            Ok(Outcome::Failed(why)) => bail!("{}: {why}", self.name),
            Ok(outcome) => Ok(outcome),
            Err(error) => bail!("{} does not answer: {error}", self.name),
        }
    }

    /// Performs an operation that has nothing to tell.
    pub fn tell(&self, op: Op) -> Result<()> {
        self.call(op, Duration::ZERO).map(drop)
    }

    /// One request on a new socket.
    pub fn ask(&self, ask: &Ask) -> Result<Verdict> {
        match self.call(Op::Ask(ask.clone()), Duration::from_millis(ask.timeout_ms))? {
            Outcome::Verdict(verdict) => Ok(verdict),
            other => bail!("unexpected outcome {other:?}"),
        }
    }

    /// GET over a new connection.
    pub fn http(&self, to: SocketAddr, path: &str) -> Result<Verdict> {
        self.ask(&request(Proto::Tcp, to, path))
    }

    /// One datagram from a new, unconnected socket.
    pub fn udp(&self, to: SocketAddr, text: &str) -> Result<Verdict> {
        self.ask(&request(Proto::Udp, to, text))
    }

    /// The same request many times, on a new socket each time.
    pub fn spread(&self, ask: &Ask, times: u32) -> Result<BTreeMap<Verdict, u32>> {
        let patience = Duration::from_millis(ask.timeout_ms) * times;
        match self.call(Op::Spread { ask: ask.clone(), times }, patience)? {
            Outcome::Counts(counts) => Ok(counts.into_iter().collect()),
            other => bail!("unexpected outcome {other:?}"),
        }
    }

    /// Opens a connection or a UDP socket and keeps it; the verdict says why it did not open.
    pub fn open(self: &Arc<Self>, ask: &Ask) -> Result<Result<Socket, Verdict>> {
        match self.call(Op::Open(ask.clone()), Duration::from_millis(ask.timeout_ms))? {
            Outcome::Handle(handle) => Ok(Ok(Socket { space: Arc::clone(self), handle })),
            Outcome::Verdict(verdict) => Ok(Err(verdict)),
            other => bail!("unexpected outcome {other:?}"),
        }
    }

    /// Starts a load of `rate` requests a second; [`Space::load_stop`] ends it.
    pub fn load_start(&self, ask: &Ask, rate: u32, threads: u32) -> Result<u64> {
        let op = Op::LoadStart { ask: ask.clone(), rate, threads };
        match self.call(op, Duration::ZERO)? {
            Outcome::Handle(handle) => Ok(handle),
            other => bail!("unexpected outcome {other:?}"),
        }
    }

    /// Ends a load.
    pub fn load_stop(&self, handle: u64) -> Result<LoadReport> {
        match self.call(Op::LoadStop(handle), TIMEOUT)? {
            Outcome::Load(report) => Ok(report),
            other => bail!("unexpected outcome {other:?}"),
        }
    }

    /// Reads `bytes` over one connection, spread over `duration`, and checks every one.
    pub fn transfer(&self, to: SocketAddr, bytes: u64, duration: Duration) -> Result<Verdict> {
        let millis = duration.as_millis() as u64;
        match self.call(Op::Transfer { to, bytes, millis }, duration)? {
            Outcome::Verdict(verdict) => Ok(verdict),
            other => bail!("unexpected outcome {other:?}"),
        }
    }

    /// Ends the process, and with it the namespace if no other process is in it.
    pub fn stop(&self) {
        lock(&self.input).take();
        let mut child = lock(&self.child);
        child.kill().ok();
        child.wait().ok();
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket that stays open in a namespace until this value is dropped.
#[derive(Debug)]
pub struct Socket {
    space: Arc<Space>,
    handle: u64,
}

impl Socket {
    /// Asks again over the same socket.
    pub fn ask(&self, query: &str) -> Result<Verdict> {
        self.ask_within(query, TIMEOUT)
    }

    /// Asks again and waits this long.
    pub fn ask_within(&self, query: &str, timeout: Duration) -> Result<Verdict> {
        let op = Op::Again {
            handle: self.handle,
            query: query.to_owned(),
            timeout_ms: timeout.as_millis() as u64,
        };
        match self.space.call(op, timeout)? {
            Outcome::Verdict(verdict) => Ok(verdict),
            other => bail!("unexpected outcome {other:?}"),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.space.tell(Op::Close(self.handle)).ok();
    }
}

/// A request with the usual settings: any source port, unconnected, [`TIMEOUT`].
pub fn request(proto: Proto, to: SocketAddr, query: &str) -> Ask {
    Ask {
        proto,
        to,
        query: query.to_owned(),
        source_port: 0,
        connected: false,
        timeout_ms: TIMEOUT.as_millis() as u64,
    }
}

/// Locks, whatever happened to the thread that held the lock before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

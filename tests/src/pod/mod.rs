//! The process that lives in each namespace of the lab: it holds the namespace, serves, and asks.
//!
//! It is the binary `lab-pod`. Threads and blocking sockets only: what is measured and judged here
//! is the network, and a runtime would be one more thing between a verdict and its cause.

mod load;
mod probe;
mod sctp;
mod server;

use crate::proto::{Call, Op, Outcome, Reply, Verdict};
use anyhow::{Context as _, Result};
use load::Load;
use probe::Kept;
use server::Server;
use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, Write as _, stdin, stdout},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Answers calls from standard input until it closes; then the process ends, and with it the
/// namespace. `name` is what the servers call themselves.
pub fn run(name: &str) -> Result<()> {
    let state = Arc::new(State::new(name));
    send(0, Outcome::Done);
    for line in stdin().lock().lines() {
        let Call { id, op } = serde_json::from_str(&line.context("read a call")?)?;
        let state = Arc::clone(&state);
        thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || send(id, state.perform(op)))
            .context("start a thread")?;
    }
    Ok(())
}

/// Writes one reply. Nobody listens any more when that fails: standard input ends as well then.
fn send(id: u64, outcome: Outcome) {
    let mut line = serde_json::to_vec(&Reply { id, outcome }).expect("replies can be written");
    line.push(b'\n');
    let mut out = stdout().lock();
    if out.write_all(&line).is_ok() {
        out.flush().ok();
    }
}

/// What the process holds between calls.
struct State {
    server: Server,
    next: AtomicU64,
    kept: Mutex<HashMap<u64, Arc<Mutex<Kept>>>>,
    loads: Mutex<HashMap<u64, Load>>,
}

impl State {
    fn new(name: &str) -> Self {
        Self {
            server: Server::new(name),
            next: AtomicU64::new(1),
            kept: Mutex::default(),
            loads: Mutex::default(),
        }
    }

    fn perform(&self, op: Op) -> Outcome {
        self.try_perform(op).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
    }

    fn try_perform(&self, op: Op) -> Result<Outcome> {
        Ok(match op {
            Op::Serve(listen) => {
                self.server.listen(&listen)?;
                Outcome::Done
            }
            Op::Unserve => {
                self.server.close();
                Outcome::Done
            }
            Op::Sysctl(values) => {
                for (path, value) in values {
                    fs::write(format!("/proc/sys/{path}"), &value)
                        .with_context(|| format!("set {path} to {value}"))?;
                }
                Outcome::Done
            }
            Op::Ask(ask) => Outcome::Verdict(probe::ask(&ask)),
            Op::Spread { ask, times } => {
                Outcome::Counts(probe::spread(&ask, times).into_iter().collect())
            }
            Op::Open(ask) => match Kept::open(&ask) {
                Ok(kept) => Outcome::Handle(self.keep(kept)),
                Err(verdict) => Outcome::Verdict(verdict),
            },
            Op::Again { handle, query, timeout_ms } => {
                let kept = lock(&self.kept).get(&handle).cloned().context("no such socket")?;
                let verdict = lock(&kept).again(&query, timeout_ms);
                Outcome::Verdict(verdict)
            }
            Op::Close(handle) => {
                lock(&self.kept).remove(&handle);
                Outcome::Done
            }
            Op::LoadStart { ask, rate, threads } => {
                let handle = self.next.fetch_add(1, Ordering::Relaxed);
                lock(&self.loads).insert(handle, Load::start(&ask, rate, threads)?);
                Outcome::Handle(handle)
            }
            Op::LoadStop(handle) => {
                let load = lock(&self.loads).remove(&handle).context("no such load")?;
                Outcome::Load(load.stop())
            }
            Op::Transfer { to, bytes, millis } => {
                Outcome::Verdict(probe::transfer(to, bytes, millis).unwrap_or_else(Verdict::from))
            }
        })
    }

    fn keep(&self, kept: Kept) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.kept).insert(handle, Arc::new(Mutex::new(kept)));
        handle
    }
}

/// Locks, whatever happened to the thread that held the lock before.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A steady load of short requests.

use super::{lock, probe};
use crate::proto::{Ask, LoadReport, Verdict};
use anyhow::{Context as _, Result};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Threads that send requests until they are told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<LoadReport>>,
    threads: Vec<thread::JoinHandle<()>>,
    start: Instant,
}

impl Load {
    pub(super) fn start(ask: &Ask, rate: u32, threads: u32) -> Result<Self> {
        let start = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(LoadReport::default()));
        let interval = Duration::from_secs(1) * threads.max(1) / rate.max(1);
        let threads = (0..threads.max(1))
            .map(|_| {
                let (ask, stop, report) = (ask.clone(), Arc::clone(&stop), Arc::clone(&report));
                thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn(move || send_until(&ask, interval, start, &stop, &report))
            })
            .collect::<Result<_, _>>()
            .context("start a thread")?;
        Ok(Self { stop, report, threads, start })
    }

    pub(super) fn stop(self) -> LoadReport {
        let Self { stop, report, threads, start } = self;
        stop.store(true, Ordering::Release);
        for thread in threads {
            thread.join().ok();
        }
        let mut report = lock(&report).clone();
        report.millis = start.elapsed().as_millis() as u64;
        report
    }
}

/// Sends at the times that the rate asks for; a late request does not make the next ones late.
fn send_until(
    ask: &Ask,
    interval: Duration,
    start: Instant,
    stop: &AtomicBool,
    report: &Mutex<LoadReport>,
) {
    let mut due = start;
    while !stop.load(Ordering::Acquire) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += interval;
        let begin = Instant::now();
        let verdict = probe::ask(ask);
        let micros = begin.elapsed().as_micros() as u64;
        let mut report = lock(report);
        report.sent += 1;
        if let Verdict::Answer(_) = verdict {
            report.answered += 1;
            report.slowest_us = report.slowest_us.max(micros);
        } else {
            *report.failures.entry(verdict.to_string()).or_default() += 1;
            report.failed_at.push((begin - start).as_millis() as u64);
        }
    }
}

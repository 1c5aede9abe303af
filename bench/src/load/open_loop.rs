//! Requests at fixed times.

use super::client::{Recorder, Request};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Sends a request every 1/`rate` seconds. Its latency counts from the moment at which it was due:
/// one that is late makes the next ones late, and that is theirs too.
pub(super) fn record_all(recorder: &mut Recorder, rate: u32, request: &mut impl Request) {
    let interval = Duration::from_secs(1) / rate;
    let mut due = Instant::now();
    while recorder.go_on().is_some() {
        while Instant::now() < due {
            // The server has the same CPU; nobody sleeps, for waking up would be measured.
            thread::yield_now();
        }
        let result = request.send();
        recorder.record(due, result);
        due += interval;
    }
}

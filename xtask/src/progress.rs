//! A sign of life for long steps: a spinner on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a log without a terminal hears that a step is still running.
const REMINDER: Duration = Duration::from_secs(30);

/// One running step.
pub(crate) struct Progress {
    step: String,
    start: Instant,
    reminded: Cell<Duration>,
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Announces the step.
    pub(crate) fn start(step: &str) -> Self {
        let spinner = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style).with_prefix(step.to_owned())
        });
        if spinner.is_none() {
            eprintln!("    {step} ...");
        }
        Self { step: step.to_owned(), start: Instant::now(), reminded: Cell::default(), spinner }
    }

    /// Shows that the step is alive, with the latest line it printed.
    pub(crate) fn tick(&self, latest: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(latest.to_owned());
            spinner.tick();
            return;
        }
        let elapsed = self.start.elapsed();
        if elapsed >= self.reminded.get() + REMINDER {
            self.reminded.set(elapsed);
            eprintln!("    {} ... {} s", self.step, elapsed.as_secs());
        }
    }

    /// Ends the step with the time it took.
    pub(crate) fn done(&self) {
        self.end("done in");
    }

    /// Ends the step; the error follows elsewhere.
    pub(crate) fn failed(&self) {
        self.end("failed after");
    }

    fn end(&self, how: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        eprintln!("    {}: {how} {} s", self.step, self.start.elapsed().as_secs());
    }
}

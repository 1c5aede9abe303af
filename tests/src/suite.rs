//! A small test harness: cases run one after another in the order of the source, on one lab, and
//! the output is that of the standard harness.

use anyhow::{Result, anyhow};
use std::{
    env,
    io::{Write as _, stdout},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// The state of a run.
#[derive(Debug)]
pub struct Suite {
    filters: Vec<String>,
    start: Instant,
    prefix: String,
    passed: u32,
    ignored: u32,
    filtered: u32,
    failures: Vec<(String, String)>,
}

impl Suite {
    /// Takes the filters (parts of names, any of which selects) from the command line. Options of
    /// the standard harness are accepted and mean nothing.
    pub fn from_arguments() -> Self {
        Self {
            filters: env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect(),
            start: Instant::now(),
            prefix: String::new(),
            passed: 0,
            ignored: 0,
            filtered: 0,
            failures: Vec::new(),
        }
    }

    /// Sets what comes before the names of the cases that follow.
    pub fn group(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
    }

    /// Runs a case, unless the filters leave it out.
    pub fn case(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        if !self.wants(name) {
            return;
        }
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(body))
            .unwrap_or_else(|_panic| Err(anyhow!("panicked, see above")));
        self.record(name, start.elapsed(), result);
    }

    /// Whether the filters let a case in; it is counted if they do not.
    pub fn wants(&mut self, name: &str) -> bool {
        self.selected(name).is_some()
    }

    /// Notes what came of a case that was run elsewhere.
    pub fn record(&mut self, name: &str, time: Duration, result: Result<()>) {
        let name = self.whole_name(name);
        let seconds = time.as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                line(&format!("test {name} ... ok ({seconds:.2} s)"));
            }
            Err(error) => {
                line(&format!("test {name} ... FAILED ({seconds:.2} s)"));
                let problem = format!("{error:#}");
                for text in problem.lines() {
                    line(&format!("    {text}"));
                }
                self.failures.push((name, problem));
            }
        }
    }

    /// Says why a case cannot run here.
    pub fn ignore(&mut self, name: &str, reason: &str) {
        if let Some(name) = self.selected(name) {
            self.ignored += 1;
            line(&format!("test {name} ... ignored, {reason}"));
        }
    }

    /// Prints the total.
    pub fn finish(self) -> ExitCode {
        let Self { filters: _, start, prefix: _, passed, ignored, filtered, failures } = self;
        if !failures.is_empty() {
            line("\nfailures:");
            for (name, problem) in &failures {
                line(&format!("    {name}: {}", problem.lines().next().unwrap_or_default()));
            }
        }
        let word = if failures.is_empty() { "ok" } else { "FAILED" };
        line(&format!(
            "\ntest result: {word}. {passed} passed; {} failed; {ignored} ignored; 0 measured; \
             {filtered} filtered out; finished in {:.2}s\n",
            failures.len(),
            start.elapsed().as_secs_f64(),
        ));
        if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn selected(&mut self, name: &str) -> Option<String> {
        let name = self.whole_name(name);
        let selected =
            self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter));
        if !selected {
            self.filtered += 1;
        }
        selected.then_some(name)
    }

    fn whole_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}::{name}", self.prefix) }
    }
}

/// Writes a line at once; a closed output is no reason to stop testing.
fn line(text: &str) {
    let mut out = stdout().lock();
    writeln!(out, "{text}").ok();
    out.flush().ok();
}

/// Repeats `attempt` until it succeeds, or returns its last error when the time is over.
pub fn eventually<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("not within {patience:?}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

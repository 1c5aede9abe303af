//! A small test harness: cases run one after another in the order of the source, on one lab, and
//! the output is that of the standard harness.
//!
//! A busy machine makes a case fail now and then that waits for the clocks of others. So a case that
//! fails is run once more, after its lab was put in order ([`Cases`]). If it passes then it counts as
//! passed, but the output says so and why it failed at first; a case that fails twice has failed.

use crate::{control, host, proxy};
use anyhow::{Error, Result, anyhow};
use std::{
    env,
    io::{Write as _, stdout},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// How the output calls what passed only when it was run again.
pub const AT_SECOND_RUN: &str = "passed at the second run";

/// The state of a run.
#[derive(Debug)]
pub struct Suite {
    filters: Vec<String>,
    start: Instant,
    prefix: String,
    passed: u32,
    /// Of those that passed.
    at_second_run: u32,
    ignored: u32,
    filtered: u32,
    failures: Vec<(String, String)>,
}

/// What came of a case.
#[derive(Debug)]
pub struct Outcome {
    /// Why its first run failed, where that was not the last one.
    pub first: Option<String>,
    /// What came of the last run.
    pub result: Result<()>,
    /// How long it took in all.
    pub time: Duration,
}

/// Starts a suite that needs a lab, `run` being all of it: the whole of its `main`.
pub fn main(
    name: &str,
    unable: impl FnOnce() -> Option<String>,
    run: impl FnOnce(&mut Suite) -> Result<()>,
) -> ExitCode {
    log();
    let mut suite = Suite::from_arguments();
    if let Some(reason) = unable() {
        suite.ignore(name, &reason);
        return suite.finish();
    }
    if let Err(error) = run(&mut suite) {
        suite.fail("lab", error);
    }
    suite.finish()
}

/// Has what goes wrong in the lab go to the standard error output.
pub fn log() {
    // The client of an API server that is away on purpose has much to say.
    let filter = tracing_subscriber::EnvFilter::new("warn,kube_client=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Why no suite can make a lab here.
pub fn unable() -> Option<String> {
    if env::var_os("DATAPATH_BIN").is_none() {
        return Some("DATAPATH_BIN is not set: `cargo xtask test` builds and sets it".to_owned());
    }
    host::missing()
        .or_else(|| control::programs().err().map(|error| error.to_string()))
        .or_else(|| proxy::datapath_binary().err().map(|error| error.to_string()))
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
            at_second_run: 0,
            ignored: 0,
            filtered: 0,
            failures: Vec::new(),
        }
    }

    /// Sets what comes before the names of the cases that follow.
    pub fn group(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
    }

    /// Runs a case once, unless the filters leave it out.
    pub fn case(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        if self.wants(name) {
            let start = Instant::now();
            let result = caught(body);
            self.record(name, Outcome { first: None, result, time: start.elapsed() });
        }
    }

    /// The cases of a lab that `renew` puts in order again.
    pub fn cases<'a>(&'a mut self, renew: &'a dyn Fn() -> Result<()>) -> Cases<'a> {
        Cases { suite: self, renew }
    }

    /// Notes that something failed which all cases need.
    pub fn fail(&mut self, name: &str, error: Error) {
        self.record(name, Outcome { first: None, result: Err(error), time: Duration::ZERO });
    }

    /// Whether the filters let a case in; it is counted if they do not.
    pub fn wants(&mut self, name: &str) -> bool {
        self.selected(name).is_some()
    }

    /// Notes what came of a case that was run elsewhere.
    pub fn record(&mut self, name: &str, outcome: Outcome) {
        let name = self.whole_name(name);
        let Outcome { first, result, time } = outcome;
        let seconds = time.as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                if let Some(first) = first {
                    self.at_second_run += 1;
                    line(&format!("{AT_SECOND_RUN}: {name}: {}", indented(&first)));
                }
                line(&format!("test {name} ... ok ({seconds:.2} s)"));
            }
            Err(error) => {
                line(&format!("test {name} ... FAILED ({seconds:.2} s)"));
                let problem = format!("{error:#}");
                line(&format!("    {}", indented(&problem)));
                if let Some(first) = first.filter(|first| *first != problem) {
                    line(&format!("    and at the first run: {}", indented(&first)));
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
        let Self {
            filters: _,
            start,
            prefix: _,
            passed,
            at_second_run,
            ignored,
            filtered,
            failures,
        } = self;
        if !failures.is_empty() {
            line("\nfailures:");
            for (name, problem) in &failures {
                line(&format!("    {name}: {}", problem.lines().next().unwrap_or_default()));
            }
        }
        if at_second_run > 0 {
            line(&format!("\n{at_second_run} {AT_SECOND_RUN}, see above"));
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

/// Cases that share a lab.
pub struct Cases<'a> {
    suite: &'a mut Suite,
    renew: &'a dyn Fn() -> Result<()>,
}

impl std::fmt::Debug for Cases<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cases").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Cases<'_> {
    /// Runs a case, unless the filters leave it out, and once more if it fails.
    pub fn case(&mut self, name: &str, body: impl Fn() -> Result<()>) {
        if self.suite.wants(name) {
            let outcome = run_twice(&body, self.renew);
            self.suite.record(name, outcome);
        }
    }

    /// Says why a case cannot run here.
    pub fn ignore(&mut self, name: &str, reason: &str) {
        self.suite.ignore(name, reason);
    }
}

/// Runs `body`; if that fails, `renew` and `body` again.
fn run_twice(body: &dyn Fn() -> Result<()>, renew: &dyn Fn() -> Result<()>) -> Outcome {
    let start = Instant::now();
    let outcome = |first, result| Outcome { first, result, time: start.elapsed() };
    match caught(body) {
        Ok(()) => outcome(None, Ok(())),
        Err(error) => {
            let result = caught(renew).map_err(|error| error.context("putting the lab in order"));
            outcome(Some(format!("{error:#}")), result.and_then(|()| caught(body)))
        }
    }
}

/// Makes a panic an error.
fn caught(body: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_panic| Err(anyhow!("panicked, see above")))
}

/// Text whose further lines do not look like lines of the harness.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

/// Writes a line at once; a closed output is no reason to stop testing.
fn line(text: &str) {
    if cfg!(test) {
        // Not to be taken for what the tests of this module came to.
        println!("{text}");
        return;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::cell::Cell;

    /// Runs a case whose first `failures` runs fail; what came of it, and how often it was run and
    /// renewed.
    fn run(failures: u32, renewal: bool) -> (Outcome, u32, u32) {
        let (runs, renewals) = (Cell::new(0), Cell::new(0));
        let count = |cell: &Cell<u32>| {
            cell.set(cell.get() + 1);
            cell.get()
        };
        let body = || match count(&runs) {
            run if run > failures => Ok(()),
            1 => panic!("the first run"),
            run => bail!("run {run}"),
        };
        let renew = || match count(&renewals) {
            _ if renewal => Ok(()),
            _ => bail!("no"),
        };
        (run_twice(&body, &renew), runs.get(), renewals.get())
    }

    #[test]
    fn what_fails_is_run_once_more() {
        let (outcome, runs, renewals) = run(0, true);
        assert!(outcome.first.is_none() && outcome.result.is_ok());
        assert_eq!((runs, renewals), (1, 0));

        let (outcome, runs, renewals) = run(1, true);
        assert_eq!(outcome.first.as_deref(), Some("panicked, see above"));
        assert!(outcome.result.is_ok());
        assert_eq!((runs, renewals), (2, 1));
    }

    #[test]
    fn what_fails_twice_has_failed() {
        let (outcome, runs, renewals) = run(2, true);
        assert!(outcome.first.is_some());
        assert_eq!(outcome.result.expect_err("it failed").to_string(), "run 2");
        assert_eq!((runs, renewals), (2, 1));
    }

    #[test]
    fn what_cannot_be_put_in_order_is_not_run_again() {
        let (outcome, runs, _) = run(1, false);
        assert_eq!(
            format!("{:#}", outcome.result.expect_err("no")),
            "putting the lab in order: no"
        );
        assert_eq!(runs, 1);
    }

    #[test]
    fn the_total_tells_of_second_runs() {
        let mut suite = Suite {
            filters: Vec::new(),
            start: Instant::now(),
            prefix: String::new(),
            passed: 0,
            at_second_run: 0,
            ignored: 0,
            filtered: 0,
            failures: Vec::new(),
        };
        suite.record("twice", run(1, true).0);
        suite.record("once", run(0, true).0);
        suite.record("never", run(2, true).0);
        assert_eq!((suite.passed, suite.at_second_run, suite.failures.len()), (2, 1, 1));
    }
}

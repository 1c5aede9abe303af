//! All test suites, one total. Every suite is an ordinary cargo test; what harness prints is
//! passed through and added up.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::setup::{self, Need};
use crate::{build, paths, process};

/// The suites, in the order they run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Suite {
    /// Pure tests of all crates: no root, no kernel programs.
    Unit,
    /// Every kernel program, packet in and packet out, by `BPF_PROG_TEST_RUN`.
    Packets,
    /// Whole clusters in the lab.
    E2e,
}

/// What the suites reported.
#[derive(Default, Debug, PartialEq, Eq)]
struct Total {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Test and reason of each skipped one.
    reasons: Vec<String>,
    /// Names of the failed ones.
    failures: Vec<String>,
}

/// Tests failed, and the total on the screen says so.
#[derive(Debug)]
pub(crate) struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("tests failed")
    }
}

impl Error for Failed {}

/// Tests that find only while they run that they cannot run here append `test: reason` to the
/// file that this variable names, and return.
const SKIPPED_VARIABLE: &str = "DATAPATH_SKIPPED";

/// Where the end-to-end tests find the binary.
pub(crate) const BINARY_VARIABLE: &str = "DATAPATH_BIN";

/// Runs the suites (all when none is named); `arguments` go to the test harness.
///
/// # Errors
///
/// When set-up or a build fails, or any test does.
pub(crate) fn run(suites: &[Suite], arguments: &[String]) -> Result<()> {
    let suites: BTreeSet<Suite> = if suites.is_empty() {
        Suite::value_variants().iter().copied().collect()
    } else {
        suites.iter().copied().collect()
    };
    let skipped = prepare(&suites)?;
    let mut total = Total::default();
    let mut broken = Vec::new();
    for suite in &suites {
        eprintln!("==> {suite:?} tests");
        for mut command in commands(*suite)? {
            command.env(SKIPPED_VARIABLE, &skipped).arg("--").args(arguments);
            let failed_before = total.failed;
            let success = stream(&mut command, &mut total)?;
            if !success && total.failed == failed_before {
                // Not built, or ended by a signal: no total tells of it.
                broken.push(process::render(&command));
            }
        }
    }
    total.add_skipped_at_run_time(&fs::read_to_string(&skipped).unwrap_or_default());
    total.failed += broken.len() as u64;
    report(&total, &broken);
    if total.failed > 0 {
        return Err(Failed.into());
    }
    Ok(())
}

/// Sets the machine up for the suites and builds what they load or start. Returns the file for
/// skipped tests.
fn prepare(suites: &BTreeSet<Suite>) -> Result<PathBuf> {
    if suites.contains(&Suite::E2e) {
        setup::ensure(Need::Lab)?;
    } else if suites.contains(&Suite::Packets) {
        setup::ensure(Need::Kernel)?;
    }
    if suites.contains(&Suite::E2e) {
        build::for_tests()?;
    } else if suites.contains(&Suite::Packets) {
        build::ebpf(false)?;
    }
    fs::create_dir_all(paths::logs())?;
    let skipped = paths::logs().join("skipped");
    fs::write(&skipped, "")?;
    Ok(skipped)
}

/// The cargo commands of a suite.
fn commands(suite: Suite) -> Result<Vec<Command>> {
    let cargo = || {
        let mut command = Command::new("cargo");
        command
            .current_dir(paths::root())
            .env(BINARY_VARIABLE, paths::cargo_target().join("debug/datapath"))
            .env(paths::CONTROL_PLANE_VARIABLE, paths::control_plane())
            .args(["test", "--no-fail-fast"]);
        command
    };
    if suite == Suite::Unit {
        let mut pure = cargo();
        pure.args(["--package", "datapath-common", "--package", "datapath-user"]);
        pure.args(["--package", "xtask"]);
        let mut lab = cargo();
        lab.args(["--package", "datapath-tests", "--lib", "--bins"]);
        return Ok(vec![pure, lab]);
    }
    let mut command = cargo();
    command.args(["--package", "datapath-tests"]);
    let targets = test_targets(suite)?;
    for target in &targets {
        command.args(["--test", target]);
    }
    Ok(if targets.is_empty() { Vec::new() } else { vec![command] })
}

/// The test targets of `datapath-tests` that belong to a suite: `packets*`, and all others.
fn test_targets(suite: Suite) -> Result<Vec<String>> {
    let mut command = Command::new("cargo");
    command.current_dir(paths::root()).args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&process::output(&mut command)?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let targets = packages
        .iter()
        .filter(|package| package["name"] == "datapath-tests")
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str())
        .filter(|name| name.starts_with("packets") == (suite == Suite::Packets));
    Ok(targets.map(str::to_owned).collect())
}

/// Runs a command, passes its output on and adds up what it says; whether it succeeded.
fn stream(command: &mut Command, total: &mut Total) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::render(command)))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            total.add_line(&line);
        }
    }
    Ok(child.wait()?.success())
}

impl Total {
    /// Adds what one line of harness output says.
    fn add_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            for (count, what) in
                result.split(['.', ';']).filter_map(|part| part.trim().split_once(' '))
            {
                let Ok(count) = count.parse::<u64>() else { continue };
                match what {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.skipped += count,
                    _ => {}
                }
            }
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|test| test.split_once(" ... "))
        {
            if let Some(reason) = outcome.strip_prefix("ignored") {
                self.reasons.push(format!("{name}: {}", reason.trim_start_matches([',', ' '])));
            } else if outcome.starts_with("FAILED") {
                self.failures.push(name.to_owned());
            }
        }
    }

    /// Tests that returned early count as passed for the harness; here they are skipped.
    fn add_skipped_at_run_time(&mut self, lines: &str) {
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            self.passed = self.passed.saturating_sub(1);
            self.skipped += 1;
            self.reasons.push(line.to_owned());
        }
    }
}

fn report(total: &Total, broken: &[String]) {
    println!();
    for reason in &total.reasons {
        println!("skipped  {reason}");
    }
    for failure in total.failures.iter().chain(broken) {
        println!("FAILED   {failure}");
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
}

#[cfg(test)]
mod tests {
    use super::Total;

    #[test]
    fn totals_of_several_harnesses_add_up() {
        let mut total = Total::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test c ... ignored, needs a second uplink",
            "test d ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.10s",
            "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            total.add_line(line);
        }
        total.add_skipped_at_run_time("e: no tcx on this kernel\n\n");
        let expected = Total {
            passed: 40,
            failed: 1,
            skipped: 2,
            reasons: vec!["c: needs a second uplink".into(), "e: no tcx on this kernel".into()],
            failures: vec!["d".into()],
        };
        assert_eq!(total, expected);
    }
}

//! All test suites, one total. Every suite is an ordinary cargo test; what harness prints is
//! passed through and added up.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::io::{BufRead, BufReader};
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
    /// Loading, pinning, attaching and cleaning up, by the running kernel.
    Kernel,
    /// Whole clusters in the lab.
    E2e,
    /// The conformance table, against ours and the real kube-proxy.
    Conformance,
    /// IP in IP with the kernel's own device, in a virtual machine.
    Interop,
    /// Two minutes of random clusters, side by side with the real kube-proxy.
    Differential,
}

/// What the suites reported.
#[derive(Default, Debug, PartialEq, Eq)]
struct Total {
    /// Below zero while tests that returned early are known and the harness has not counted them.
    passed: i64,
    failed: u64,
    skipped: u64,
    /// Test and reason of each skipped one.
    reasons: Vec<String>,
    /// Names of the failed ones.
    failures: Vec<String>,
    /// Name of each that passed only when it was run again, and why it failed before.
    second_runs: Vec<String>,
    /// The passed test whose output is being read.
    reading: Option<String>,
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

/// A test that finds only while it runs that it cannot run here prints this and its reason, and
/// returns. The harness counts it as passed; here it is skipped.
const SKIPPED: &str = "skipped: ";

/// The suites in the lab run a case that fails once more, and say this when it passes then.
const SECOND_RUN: &str = "passed at the second run: ";

/// The test target of [`Suite::Differential`].
const DIFFERENTIAL: &str = "differential";
/// The test target of [`Suite::Interop`].
const INTEROP: &str = "interop";
/// The test target of [`Suite::Conformance`].
const CONFORMANCE: &str = "conformance";

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
    prepare(&suites)?;
    let mut total = Total::default();
    let mut broken = Vec::new();
    for suite in &suites {
        eprintln!("==> {suite:?} tests");
        if let Some(mut command) = command(*suite)? {
            command.args(["--", "--show-output"]).args(arguments);
            let failed_before = total.failed;
            let success = stream(&mut command, &mut total)?;
            if !success && total.failed == failed_before {
                // Not built, or ended by a signal: no total tells of it.
                broken.push(process::render(&command));
            }
        }
    }
    total.failed += broken.len() as u64;
    report(&total, &broken);
    if total.failed > 0 {
        return Err(Failed.into());
    }
    Ok(())
}

/// Sets the machine up for the suites and builds what they load or start.
fn prepare(suites: &BTreeSet<Suite>) -> Result<()> {
    let in_the_lab = [Suite::E2e, Suite::Conformance, Suite::Interop, Suite::Differential];
    if in_the_lab.iter().any(|suite| suites.contains(suite)) {
        setup::ensure(Need::Lab)?;
        build::for_tests()?;
    } else if suites.iter().any(|suite| *suite != Suite::Unit) {
        setup::ensure(Need::Kernel)?;
        build::ebpf(false)?;
    }
    if suites.contains(&Suite::Interop)
        && let Err(error) = setup::vm::ensure()
    {
        // The suite says what it lacks, and is skipped.
        eprintln!("    no virtual machine: {error:#}");
    }
    Ok(())
}

/// The cargo command of a suite; none where it has no tests.
fn command(suite: Suite) -> Result<Option<Command>> {
    let mut command = process::cargo();
    command
        .env(BINARY_VARIABLE, build::test_binary())
        .env(paths::CONTROL_PLANE_VARIABLE, paths::control_plane())
        .env(setup::vm::VARIABLE, setup::vm::folder())
        .args(["test", "--no-fail-fast"]);
    if suite == Suite::Unit {
        command.args(["--lib", "--bins"]);
        return Ok(Some(command));
    }
    let targets = test_targets(suite)?;
    for target in &targets {
        command.args(["--test", target]);
    }
    Ok((!targets.is_empty()).then_some(command))
}

/// The names of the test targets of a suite. They are asked for by name alone, never with their
/// package: cargo then builds all crates with the same features, and so only once.
fn test_targets(suite: Suite) -> Result<Vec<String>> {
    let mut command = process::cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&process::output(&mut command)?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let mut names = Vec::new();
    for package in packages {
        for target in package["targets"].as_array().into_iter().flatten() {
            let Some(name) = target["name"].as_str() else { continue };
            let belongs = match suite {
                Suite::Unit => false,
                Suite::Kernel => package["name"] == "datapath-user",
                Suite::Packets => {
                    package["name"] == "datapath-tests" && name.starts_with("packets")
                }
                Suite::Conformance => name == CONFORMANCE,
                Suite::Interop => name == INTEROP,
                Suite::Differential => name == DIFFERENTIAL,
                Suite::E2e => {
                    package["name"] == "datapath-tests"
                        && !name.starts_with("packets")
                        && ![CONFORMANCE, INTEROP, DIFFERENTIAL].contains(&name)
                }
            };
            if belongs && target["kind"][0] == "test" {
                names.push(name.to_owned());
            }
        }
    }
    Ok(names)
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
            if total.add_line(&line) {
                println!("{line}");
            }
        }
    }
    Ok(child.wait()?.success())
}

impl Total {
    /// Adds what one line of harness output says; whether people should see it. What passed tests
    /// printed is only searched for the reason of a skip.
    fn add_line(&mut self, line: &str) -> bool {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.reading = None;
            self.add_result(result);
        } else if line == "successes:" {
            self.reading = Some(String::new());
            return false;
        } else if line == "failures:" {
            self.reading = None;
        } else if let Some(reading) = &mut self.reading {
            if let Some(name) =
                line.strip_prefix("---- ").and_then(|name| name.strip_suffix(" stdout ----"))
            {
                name.clone_into(reading);
            } else if let Some(reason) = line.strip_prefix(SKIPPED) {
                self.reasons.push(format!("{reading}: {reason}"));
                self.passed -= 1;
                self.skipped += 1;
            }
            return false;
        } else if let Some(case) = line.strip_prefix(SECOND_RUN) {
            self.second_runs.push(case.to_owned());
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|test| test.split_once(" ... "))
        {
            if let Some(reason) = outcome.strip_prefix("ignored") {
                self.reasons.push(format!("{name}: {}", reason.trim_start_matches([',', ' '])));
            } else if outcome.starts_with("FAILED") {
                self.failures.push(name.to_owned());
            }
        }
        true
    }

    /// Adds a closing line such as `ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add_result(&mut self, result: &str) {
        let parts = result.split(['.', ';']).filter_map(|part| part.trim().split_once(' '));
        for (count, what) in parts {
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += count.cast_signed(),
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

fn report(total: &Total, broken: &[String]) {
    println!();
    for reason in &total.reasons {
        println!("skipped  {reason}");
    }
    for case in &total.second_runs {
        println!("{SECOND_RUN}{case}");
    }
    if !total.second_runs.is_empty() {
        println!("{} of the passed needed a second run", total.second_runs.len());
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
        let output = [
            ("running 4 tests", true),
            ("test a::b ... ok", true),
            ("test c ... ignored, needs a second uplink", true),
            ("test d ... FAILED", true),
            ("passed at the second run: e: not within 60s", true),
            ("test e ... ok", true),
            ("successes:", false),
            ("---- e stdout ----", false),
            ("skipped: no tcx on this kernel", false),
            ("failures:", true),
            (
                "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; finished in 0.1s",
                true,
            ),
            ("test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; finished in 1.0s", true),
        ];
        for (line, shown) in output {
            assert_eq!(total.add_line(line), shown, "{line}");
        }
        let expected = Total {
            passed: 41,
            failed: 1,
            skipped: 2,
            reasons: vec!["c: needs a second uplink".into(), "e: no tcx on this kernel".into()],
            failures: vec!["d".into()],
            second_runs: vec!["e: not within 60s".into()],
            reading: None,
        };
        assert_eq!(total, expected);
    }
}

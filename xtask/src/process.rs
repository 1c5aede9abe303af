//! Running other programs: in the foreground, for their output, or logged with progress shown.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::progress::Progress;

/// The command as a person would type it.
pub(crate) fn render(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A command from a variable such as `KIND="ssh host kind"`, else from `default`.
pub(crate) fn from_variable(variable: &str, default: &str) -> Command {
    let line = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or(default));
    command.args(words);
    command
}

/// A cargo command in the workspace. What the cargo that started us tells about our own package is
/// taken out: build scripts that look at it would run again, and all that stands on them.
pub(crate) fn cargo() -> Command {
    let mut command = without_our_package(Command::new("cargo"));
    command.current_dir(paths::root());
    command
}

/// Takes what cargo tells about our own package out of a command's environment.
pub(crate) fn without_our_package(mut command: Command) -> Command {
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if name == "CARGO" || ours.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&variable);
        }
    }
    command
}

/// Runs in the foreground; a failure is an error that names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", render(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", render(command));
    }
    Ok(())
}

/// Runs and returns what it printed; a failure is an error that carries its complaint.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", render(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", render(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the command can be started and succeeds; it prints nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a long step: its output goes to `target/logs/<log>.log`, the screen shows that it lives.
/// After `limit` it is ended, which is an error like any other failure.
pub(crate) fn logged(step: &str, log: &str, command: &mut Command, limit: Duration) -> Result<()> {
    fs::create_dir_all(paths::logs())?;
    let path = paths::logs().join(format!("{log}.log"));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start `{}`", render(command)))?;
    let progress = Progress::start(step);
    let status = watch(&mut child, &path, &progress, limit)?;
    match status {
        Some(status) if status.success() => {
            progress.done();
            Ok(())
        }
        Some(status) => {
            progress.failed();
            bail!("{step}: `{}` failed ({status}){}", render(command), tail(&path))
        }
        None => {
            progress.failed();
            bail!("{step}: no end after {} s{}", limit.as_secs(), tail(&path))
        }
    }
}

/// Waits for the child, showing the last line of its log; `None` when the limit was reached.
fn watch(
    child: &mut Child,
    log: &Path,
    progress: &Progress,
    limit: Duration,
) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        progress.tick(&last_lines(log, 1));
        thread::sleep(Duration::from_millis(100));
    }
}

/// The end of a log, for an error message.
fn tail(log: &Path) -> String {
    format!("\n{}\n(the whole output: {})", last_lines(log, 20), log.display())
}

fn last_lines(log: &Path, count: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(log) {
        // An unreadable log only means less to show.
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

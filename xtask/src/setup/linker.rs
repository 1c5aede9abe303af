//! bpf-linker: built against the distribution's LLVM where apt has a recent one, else taken from
//! the project's releases.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt;
use crate::{paths, process};

/// The version that goes with our aya.
pub(crate) const VERSION: &str = "0.13.0";

/// The newest LLVM that its builds here link.
pub(crate) const NEWEST_LLVM: u32 = 22;

const LIMIT: Duration = Duration::from_mins(30);

/// The one to use: ours, else one of the same version or newer in `PATH`.
pub(crate) fn find() -> Option<PathBuf> {
    let ours = paths::tools().join("bin/bpf-linker");
    [Some(ours), paths::find_command("bpf-linker")]
        .into_iter()
        .flatten()
        .find(|linker| version(linker).is_some_and(|version| version >= parse(VERSION)))
}

fn version(linker: &Path) -> Option<Vec<u32>> {
    let version = process::output(Command::new(linker).arg("--version")).ok()?;
    Some(parse(version.split_whitespace().last()?))
}

fn parse(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Installs it into `target/tools`.
///
/// # Errors
///
/// When neither a build nor a download succeeds; both reasons are named.
pub(crate) fn install() -> Result<()> {
    let Err(build) = build() else { return Ok(()) };
    eprintln!("    it cannot be built here ({build:#}); taking the released binary instead");
    download().with_context(|| format!("building it: {build:#}"))
}

fn build() -> Result<()> {
    let llvm = PathBuf::from(format!("/usr/lib/llvm-{NEWEST_LLVM}"));
    let packages = packages();
    if !installed(&llvm, &packages) {
        crate::check::apt(&packages)?;
        apt::update();
        if apt::candidate(&packages[0]).is_none() {
            bail!("apt offers no {}", packages[0]);
        }
        apt::install(&format!("LLVM {NEWEST_LLVM}, which bpf-linker links"), &packages)?;
    }
    let mut command = process::cargo();
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{NEWEST_LLVM}")])
        .arg("--root")
        .arg(paths::tools())
        .env("LLVM_PREFIX", &llvm)
        .env_remove("RUSTFLAGS");
    process::logged(&format!("building bpf-linker {VERSION}"), "bpf-linker", &mut command, LIMIT)
}

fn packages() -> Vec<String> {
    let llvm = NEWEST_LLVM;
    [
        &format!("llvm-{llvm}-dev"),
        &format!("libpolly-{llvm}-dev"),
        "libzstd-dev",
        "zlib1g-dev",
        "libxml2-dev",
        "g++",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn installed(llvm: &Path, packages: &[String]) -> bool {
    llvm.join("bin/llvm-config").exists()
        && process::succeeds(Command::new("dpkg").arg("-s").args(packages))
}

/// The released binary is static and carries its own LLVM.
fn download() -> Result<()> {
    let needs: Vec<String> = [("curl", "curl"), ("tar", "tar"), ("zstd", "zstd")]
        .into_iter()
        .filter(|(command, _)| paths::find_command(command).is_none())
        .map(|(_, package)| package.to_owned())
        .collect();
    if !needs.is_empty() {
        apt::install("what the download of bpf-linker needs", &needs)?;
    }
    let folder = paths::tools().join("bin");
    fs::create_dir_all(&folder)?;
    let archive = paths::tools().join("bpf-linker.tar.zst");
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{VERSION}/bpf-linker-{}-unknown-linux-musl.tar.zst",
        env::consts::ARCH
    );
    let mut command = Command::new("curl");
    command.args(["-fsSL", "--retry", "3", "-o"]).arg(&archive).arg(&url);
    process::logged("downloading bpf-linker", "bpf-linker-download", &mut command, LIMIT)?;
    process::run(
        Command::new("tar").arg("--zstd").arg("-xf").arg(&archive).arg("-C").arg(&folder),
    )?;
    if find().is_none() {
        bail!("{url} has no bpf-linker that runs here; put version {VERSION} or newer into PATH");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn versions_compare_by_number() {
        assert!(parse("0.13.0") >= parse("0.13.0"));
        assert!(parse("0.14.1") > parse("0.13.0"));
        assert!(parse("0.9.15") < parse("0.13.0"));
    }
}

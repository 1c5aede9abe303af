//! The compiler of the kernel programs: any rustc from 1.91 on that comes with the source of
//! `core` and whose LLVM is not newer than the linker's. rustup's pinned nightly where it can be
//! had, else the distribution's rustc with its source package.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{apt, linker};
use crate::process;

/// What `install` is after, for people.
pub(crate) const WANTED: &str =
    "nightly Rust with its library's source (by rustup; else the distribution's rustc by apt)";

/// Pinned because bpf-linker reads only bitcode of an LLVM that is not newer than its own: this
/// is the newest one with LLVM 22.
const NIGHTLY: &str = "nightly-2026-05-19";

/// Where Debian and Ubuntu put their rustc.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// The oldest rustc that compiles the kernel programs.
const OLDEST_MINOR: u32 = 91;

/// rustup waits long for a server that does not answer.
const RUSTUP_LIMIT: Duration = Duration::from_mins(5);

/// A compiler that is ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// A toolchain of rustup, by name.
    Rustup(String),
    /// A rustc outside rustup, with rustup's or its own cargo.
    Rustc(PathBuf),
}

impl Compiler {
    /// The one to use, when one is ready; the one that `DATAPATH_EBPF_RUSTC` names comes first.
    pub(crate) fn find() -> Option<Self> {
        if let Some(rustc) = env::var_os("DATAPATH_EBPF_RUSTC") {
            return Some(Self::Rustc(rustc.into()));
        }
        [Self::Rustup(NIGHTLY.to_owned()), Self::Rustc(DISTRIBUTION_RUSTC.into())]
            .into_iter()
            .find(Self::is_ready)
    }

    /// A cargo command that compiles with it. Variables that choose another compiler are taken out.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Rustup(toolchain) => {
                let mut command = process::without_our_package(Command::new("rustup"));
                command.args(["run", toolchain, "cargo"]);
                command
            }
            Self::Rustc(_) => process::cargo(),
        };
        for variable in
            ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"]
        {
            command.env_remove(variable);
        }
        if let Self::Rustc(rustc) = self {
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// Whether it can lint: a distribution's rustc comes without.
    pub(crate) fn has_clippy(&self) -> bool {
        matches!(self, Self::Rustup(_))
            && process::succeeds(self.cargo().args(["clippy", "--version"]))
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Rustup(toolchain) => {
                let mut command = Command::new("rustup");
                command.args(["run", toolchain, "rustc"]);
                command
            }
            Self::Rustc(rustc) => Command::new(rustc),
        }
    }

    fn is_ready(&self) -> bool {
        let Ok(sysroot) = process::output(self.rustc().args(["--print", "sysroot"])) else {
            return false;
        };
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        source.is_dir()
            && process::output(self.rustc().arg("-vV")).is_ok_and(|version| suits(&version))
    }
}

/// Whether the output of `rustc -vV` is that of a compiler we can use.
fn suits(version: &str) -> bool {
    let field = |name: &str| {
        version.lines().find_map(|line| line.strip_prefix(name)).map(|value| {
            value
                .trim()
                .split(['.', '-'])
                .map(|part| part.parse().unwrap_or(0))
                .collect::<Vec<u32>>()
        })
    };
    let (Some(release), Some(llvm)) = (field("release:"), field("LLVM version:")) else {
        return false;
    };
    release.get(1).is_some_and(|minor| *minor >= OLDEST_MINOR)
        && llvm.first().is_some_and(|major| *major <= linker::NEWEST_LLVM)
}

/// Installs one.
///
/// # Errors
///
/// When neither rustup nor apt can bring one; both reasons are named.
pub(crate) fn install() -> Result<()> {
    let Err(rustup) = by_rustup() else { return Ok(()) };
    eprintln!("    rustup cannot add {NIGHTLY} here; taking the distribution's rustc instead");
    by_apt().with_context(|| format!("rustup: {rustup:#}"))?;
    if Compiler::find().is_none() {
        bail!("the distribution's rustc is too old, or its source package is incomplete")
    }
    Ok(())
}

fn by_rustup() -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"]);
    command.args(["--component", "rust-src", "--component", "clippy"]);
    process::logged(&format!("installing Rust {NIGHTLY}"), "rustup", &mut command, RUSTUP_LIMIT)
}

fn by_apt() -> Result<()> {
    crate::check::apt(&["rustc-web".to_owned(), "rust-web-src".to_owned()])?;
    apt::update();
    let Some(packages) = distribution_packages() else {
        bail!(
            "apt offers no rustc from 1.{OLDEST_MINOR} on with its source. \
             Install a nightly yourself: rustup toolchain install {NIGHTLY} --component rust-src"
        )
    };
    apt::install("the distribution's rustc and its source", &packages)
}

/// The packages of the newest usable rustc that apt offers: Debian's `rustc-web` (kept current
/// for browsers), Ubuntu's versioned ones, the plain one.
fn distribution_packages() -> Option<[String; 2]> {
    let mut versioned: Vec<u32> = apt::names("rustc-1.")
        .iter()
        .filter_map(|name| name.strip_prefix("rustc-1.")?.parse().ok())
        .collect();
    versioned.sort_unstable();
    let newest =
        versioned.last().map(|minor| [format!("rustc-1.{minor}"), format!("rust-1.{minor}-src")]);
    [
        Some(["rustc-web".to_owned(), "rust-web-src".to_owned()]),
        newest,
        Some(["rustc".to_owned(), "rust-src".to_owned()]),
    ]
    .into_iter()
    .flatten()
    .find(|[rustc, source]| {
        apt::candidate(rustc).is_some_and(|version| minor(&version) >= OLDEST_MINOR)
            && apt::candidate(source).is_some()
    })
}

/// The minor number of a package version such as `1.96.0+dfsg1-1`.
fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{minor, suits};

    #[test]
    fn compilers_with_a_newer_llvm_than_the_linkers_are_refused() {
        assert!(suits("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"));
        assert!(suits("rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n"));
        assert!(!suits("rustc\nrelease: 1.99.0-nightly\nLLVM version: 23.1.0\n"));
        assert!(!suits("rustc\nrelease: 1.63.0\nLLVM version: 14.0.6\n"));
        assert!(!suits("not rustc"));
    }

    #[test]
    fn minor_of_package_versions() {
        assert_eq!(minor("1.96.0+dfsg1-1~deb12u2"), 96);
        assert_eq!(minor("none"), 0);
    }
}

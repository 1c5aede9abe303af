//! Set-up of a fresh machine. Looks first, says what it is going to install and why, then does
//! it; a second run finds everything in place and changes nothing.

mod apt;
pub(crate) mod compiler;
mod control_plane;
mod lab_tools;
pub(crate) mod linker;
pub(crate) mod vm;

use anyhow::Result;

use crate::check;
use compiler::Compiler;

/// What a command needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiling the kernel programs.
    Ebpf,
    /// Loading kernel programs: the packet tests.
    Kernel,
    /// The lab: tools and a control plane, and all of the above.
    Lab,
}

/// Brings the machine to where `need` is met.
pub(crate) fn ensure(need: Need) -> Result<()> {
    if need != Need::Ebpf {
        check::machine()?;
    }
    let compiler = Compiler::find().is_none();
    let linker = linker::find().is_none();
    let tools = if need == Need::Lab { lab_tools::missing() } else { Vec::new() };
    let binaries = if need == Need::Lab { control_plane::missing() } else { Vec::new() };
    if !binaries.is_empty() {
        control_plane::check()?;
    }
    if !tools.is_empty() {
        check::apt(&lab_tools::packages(&tools))?;
    }
    if !compiler && !linker && tools.is_empty() && binaries.is_empty() {
        return Ok(());
    }
    eprintln!("==> set-up (cached under target/, done once)");
    if compiler {
        eprintln!("  - {}: compiles the kernel programs for BPF", compiler::WANTED);
    }
    if linker {
        eprintln!("  - bpf-linker {}: links them into one object with BTF", linker::VERSION);
    }
    for tool in &tools {
        eprintln!("  - package {}: {}", tool.package, tool.why);
    }
    if !binaries.is_empty() {
        eprintln!("  - {}: the lab's real control plane, built with Go", binaries.join(", "));
    }
    if !tools.is_empty() {
        apt::install("the lab's tools", &lab_tools::packages(&tools))?;
    }
    if compiler {
        compiler::install()?;
    }
    if linker {
        linker::install()?;
    }
    if !binaries.is_empty() {
        control_plane::build(&binaries)?;
    }
    eprintln!("==> set-up is complete");
    Ok(())
}

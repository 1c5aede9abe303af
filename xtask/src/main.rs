//! `cargo xtask`: set-up, build, run, test. Dispatch only; each command is a small file.

mod bench;
mod build;
mod check;
mod differential;
mod kind;
mod lab;
mod lint;
mod paths;
mod process;
mod progress;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use setup::Need;
use test::Suite;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test datapath", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install and build what the other commands need (they do it themselves)
    Setup,
    /// Build the kernel programs
    BuildEbpf(BuildOptions),
    /// Build the kernel programs and the static binary that carries them
    Build(BuildOptions),
    /// Build the container image datapath:VERSION
    Image,
    /// Start a four-node cluster without kube-proxy and show Services at work
    Run(run::Options),
    /// The lab, by hand: up, down, status, exec NODE|POD -- CMD
    Lab {
        /// Given to the lab as they are; `help` lists its commands
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Measure datapath, kube-proxy and bare routing side by side in the lab
    Bench(bench::Options),
    /// Compare every Service behaviour with kube-proxy's: [--proxy NAME]... [FILTER] [--write]
    Conformance {
        /// Given to the program as they are; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Lint all crates; a warning is an error
    Lint,
    /// Give random clusters to us and to the real kube-proxy, and compare what clients see
    Differential(differential::Options),
    /// Run all tests, or only the suites named
    Test {
        /// The suites; all when none is named
        suites: Vec<Suite>,
        /// Given to the test harness, such as a filter
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

#[derive(Args)]
struct BuildOptions {
    /// Compile the kernel programs' own diagnostics in (`datapath agent --log-datapath`)
    #[arg(long)]
    log: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Setup => setup::ensure(Need::Lab),
        Task::BuildEbpf(options) => build::ebpf(options.log),
        Task::Build(options) => build::product(options.log).map(|binary| {
            println!("{}", binary.display());
        }),
        Task::Image => kind::image::build().map(|image| println!("{image}")),
        Task::Run(options) => run::run(&options),
        Task::Lab { arguments } => lab::become_lab(&arguments),
        Task::Bench(options) => bench::run(&options),
        Task::Conformance { arguments } => lab::become_conformance(&arguments),
        Task::Lint => lint::run(),
        Task::Differential(options) => differential::run(&options),
        Task::Test { suites, arguments } => test::run(&suites, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The last line of a test run is its total: the failure is in it already.
        Err(error) if error.is::<test::Failed>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}

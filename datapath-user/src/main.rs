//! The datapath binary.

use anyhow::{Context, Result};
use clap::Parser;
use datapath_user::{
    agent,
    args::{AgentArgs, CleanupArgs, Cli, Command, ListCommand, ServiceCommand},
    config::{LogFormat, Remark},
    datapath,
    node::{self, Conflist},
    show::ShowError,
};
use std::{
    fs,
    io::{self, ErrorKind, IsTerminal, Write},
    process::ExitCode,
};
use tracing::warn;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "datapath: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    if !matches!(command, Command::Agent(_)) {
        log_to_stderr(LogFormat::Text, "warn");
    }
    let out = &mut io::stdout().lock();
    match command {
        Command::Agent(args) => run_agent(*args)?,
        Command::Status(show) => show.show().status(out)?,
        Command::Service(ServiceCommand::List(show)) => show.show().service_list(out)?,
        Command::Service(ServiceCommand::Show { name, show }) => {
            show.show().service_show(&name, out)?;
        }
        Command::Flow(flow) => {
            let (filter, show) = flow.filter();
            show.flow_list(&filter, out)?;
        }
        Command::Route(ListCommand::List(show)) => show.show().route_list(out)?,
        Command::Workload(ListCommand::List(show)) => show.show().workload_list(out)?,
        Command::Node(ListCommand::List(show)) => show.show().node_list(out)?,
        Command::Map(ListCommand::List(show)) => show.show().map_list(out)?,
        Command::Cleanup(args) => cleanup(&args, out)?,
        Command::MountBpffs(args) => datapath::prepare_bpffs(&args.bpffs)?,
        Command::Version => writeln!(
            out,
            "datapath {} (maps v{}, kernel programs {})",
            env!("CARGO_PKG_VERSION"),
            datapath_common::ABI_VERSION,
            if datapath::has_programs() { "included" } else { "missing: run `cargo xtask build`" },
        )?,
    }
    out.flush()?;
    Ok(())
}

fn run_agent(args: AgentArgs) -> Result<()> {
    let (options, remarks) = args.options()?;
    log_to_stderr(options.log_format, "info");
    for Remark { field, value, reason } in remarks {
        warn!(field, value, "the configuration file: {reason}");
    }
    // Two workers: a busy node's agent needs no more, and every one costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    Ok(runtime.block_on(agent::run(options))?)
}

fn cleanup(args: &CleanupArgs, out: &mut impl Write) -> Result<()> {
    if let Err(error) = node::release(&args.state_dir) {
        writeln!(out, "{error}")?;
    }
    // Before anything else: from now on the node must get no pods.
    let conflist = Conflist::new(&args.cni.cni_conf_dir);
    if conflist.remove()? {
        writeln!(out, "removed {}", conflist.path().display())?;
    }
    for line in datapath::cleanup(&args.options())? {
        writeln!(out, "{line}")?;
    }
    match fs::remove_dir_all(&args.state_dir) {
        Ok(()) => writeln!(out, "removed {}", args.state_dir.display())?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("removing {}", args.state_dir.display()));
        }
    }
    Ok(())
}

fn log_to_stderr(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_unset| EnvFilter::new(format!("{default},{QUIET}")));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match error.downcast_ref::<ShowError>() {
        Some(ShowError::Output(error)) => of_pipe(error),
        _ => error.downcast_ref::<io::Error>().is_some_and(of_pipe),
    }
}

/// Their failures are ours to report: the attempts behind one are many.
const QUIET: &str = "kube_client::client::builder=off,kube_runtime::watcher=off";

//! `benchmarks.md`, for docs/.

use super::{plot::Plot, table, text};
use crate::{run::Run, target::Judged};
use std::fmt::Write as _;

/// The whole page; it refers to the plots beside it.
pub(super) fn page(run: &Run, judged: &[Judged], plots: &[Plot]) -> String {
    let mut page = String::from("# Benchmark\n\nWritten by `cargo xtask bench`.\n\n");
    for (name, value) in text::machine(run) {
        writeln!(page, "- {name}: {value}").expect("writing to a string");
    }
    writeln!(page, "\n{}", text::method(run)).expect("writing to a string");
    let mut section = |title: &str, table: &str| {
        write!(page, "\n## {title}\n\n```\n{table}\n```\n").expect("writing to a string");
    };
    if !judged.is_empty() {
        section("Targets", &table::targets(judged));
    }
    section("Latency and throughput", &table::findings(&run.findings));
    if !run.points.is_empty() {
        section("Number of Services", &table::scale(&run.points));
        section("Proxies", &table::needs(run));
    }
    if let Some(heavy) = run.settings.heavy.filter(|_| !run.heavy.is_empty()) {
        section(&heavy.to_string(), &table::heavy(run));
    }
    page.push_str("\n## Plots\n\n");
    for Plot { name, title, svg: _ } in plots {
        writeln!(page, "![{title}](plots/{name}.svg)").expect("writing to a string");
    }
    page
}

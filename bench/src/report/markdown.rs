//! `benchmarks.md`, for docs/.

use super::{Section, plot::Plot, text};
use crate::run::Run;
use std::fmt::Write as _;

/// The whole page; it refers to the plots beside it.
pub(super) fn page(run: &Run, sections: &[Section], plots: &[Plot]) -> String {
    let mut page = String::from("# Benchmark\n\nWritten by `cargo xtask bench`.\n\n");
    for (name, value) in text::machine(run) {
        writeln!(page, "- {name}: {value}").expect("writing to a string");
    }
    writeln!(page, "\n{}", text::method(run)).expect("writing to a string");
    for Section { title, table } in sections {
        write!(page, "\n## {title}\n\n```\n{table}\n```\n").expect("writing to a string");
    }
    page.push_str("\n## Plots\n\n");
    for Plot { name, title, svg: _ } in plots {
        writeln!(page, "![{title}](plots/{name}.svg)").expect("writing to a string");
    }
    page
}

//! The figures in the terminal.

use crate::{
    cluster::Variant,
    measure::Unit,
    programming::PER_SECOND,
    round::{Figure, Finding},
    scale::{Lost, Point},
    stats::Estimate,
    target::{Judged, Verdict},
};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

/// Latencies and throughput by variant, each with its ratio to the first one that was measured.
pub(super) fn findings(findings: &[Finding]) -> String {
    let variants = measured(findings);
    let mut table = new();
    table.set_header(header("measure, typical (÷ first)", &variants));
    for finding in findings {
        let mut row = vec![finding.measure.title.to_owned()];
        for variant in &variants {
            row.push(cell(finding, *variant).unwrap_or_default());
        }
        table.add_row(row);
    }
    align(&mut table);
    table.to_string()
}

/// First-packet latency by number of Services.
pub(super) fn scale(points: &[Point]) -> String {
    let variants = measured(points.iter().flat_map(|point| &point.findings));
    let mut table = new();
    table.set_header(header("Services, connect to", &variants));
    for point in points {
        for finding in &point.findings {
            let mut row = vec![format!("{}, {}", point.services, finding.measure.title)];
            for variant in &variants {
                let estimate = finding.of(*variant).and_then(|s| Estimate::of(&s.typical));
                row.push(estimate.map(|e| value(Unit::Nanoseconds, e.value)).unwrap_or_default());
            }
            table.add_row(row);
        }
    }
    align(&mut table);
    table.to_string()
}

/// What the proxies needed, and those that did not come so far.
pub(super) fn programming(points: &[Point]) -> String {
    let mut table = new();
    table.set_header([
        "Services, proxy of one node",
        "first sync",
        "change: p50",
        "p99",
        "CPU at rest",
        &format!("at {PER_SECOND} changes/s"),
        "memory",
        "BPF maps",
    ]);
    for point in points {
        for found in &point.programming {
            let maps = match found.maps_mib {
                0.0 => String::new(),
                mib => format!("{mib:.0} MiB"),
            };
            table.add_row([
                format!("{}, {}", point.services, found.variant.name()),
                format!("{:.2} s", found.first_sync),
                format!("{:.1} ms", found.p50_ms),
                format!("{:.1} ms", found.p99_ms),
                format!("{:.1} %", found.at_rest * 100.0),
                format!("{:.1} %", found.under_changes * 100.0),
                format!("{:.0} MiB", found.memory_mib),
                maps,
            ]);
        }
        for Lost { variant, why } in &point.lost {
            table.add_row([
                format!("{}, {}", point.services, variant.name()),
                format!("none: {why}"),
            ]);
        }
    }
    align(&mut table);
    table.to_string()
}

/// The targets, what was found, and whether that is enough.
pub(super) fn targets(judged: &[Judged]) -> String {
    let mut table = new();
    table.set_header(["ratio", "target (floor)", "found", "95 %", ""]);
    for one in judged {
        let verdict = match one.verdict {
            Verdict::Met => "met",
            Verdict::Floor => "floor",
            Verdict::Missed => "MISSED",
        };
        table.add_row([
            one.title.clone(),
            one.wanted.clone(),
            format!("{:.3}", one.found.value),
            interval(one.found),
            format!("{verdict}{}", if one.sure { "" } else { "?" }),
        ]);
    }
    table.to_string()
}

/// A latency or a throughput, for people.
pub(super) fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Nanoseconds if value < 10_000.0 => format!("{value:.0} ns"),
        Unit::Nanoseconds if value < 10_000_000.0 => format!("{:.1} µs", value / 1e3),
        Unit::Nanoseconds => format!("{:.1} ms", value / 1e6),
        Unit::BytesPerSecond => format!("{:.2} Gbit/s", value * 8.0 / 1e9),
    }
}

/// The interval of an estimate.
pub(super) fn interval(estimate: Estimate) -> String {
    format!("{:.3} – {:.3}", estimate.low, estimate.high)
}

fn cell(finding: &Finding, variant: Variant) -> Option<String> {
    let series = finding.of(variant)?;
    let typical = value(finding.measure.unit(), Estimate::of(&series.typical)?.value);
    let baseline = finding.series.first()?.variant;
    let count = |count: u64, what: &str| match count {
        0 => String::new(),
        count => format!(", {count} {what}"),
    };
    let failures = count(series.failures, "failed") + &count(series.again, "turns again");
    if baseline == variant {
        return Some(format!("{typical}{failures}"));
    }
    let ratio = finding.ratio(variant, baseline, Figure::Typical)?;
    Some(format!("{typical} ({:.2}){failures}", ratio.value))
}

/// The variants that anything was found of.
fn measured<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<Variant> {
    let findings: Vec<_> = findings.into_iter().collect();
    let found = |variant: &Variant| findings.iter().any(|finding| finding.of(*variant).is_some());
    Variant::ALL.into_iter().filter(found).collect()
}

fn header<'a>(first: &'a str, variants: &[Variant]) -> Vec<&'a str> {
    std::iter::once(first).chain(variants.iter().map(|variant| variant.name())).collect()
}

fn new() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

//! The matrix for people, and the page `docs/conformance.md`.

use super::{
    Column, Outcome,
    case::{Case, Step, Unlike, find},
    cases::NOT_APPLICABLE,
    place::Way,
};
use crate::suite::AT_SECOND_RUN;
use anyhow::{Result, ensure};
use std::{collections::BTreeMap, fmt::Write as _};

/// What came of the whole table.
#[derive(Debug, Default)]
pub struct Matrix {
    /// By column, then by case.
    pub columns: BTreeMap<Column, BTreeMap<&'static str, Outcome>>,
}

/// A step of a case that can be right or wrong.
struct Line<'a> {
    what: String,
    want: String,
    unlike: &'a [Unlike],
}

impl Matrix {
    /// The cases that were not as the table says, each with its column.
    pub fn failures(&self) -> impl Iterator<Item = (Column, &'static str, &Outcome)> {
        self.columns.iter().flat_map(|(column, outcomes)| {
            let bad = outcomes.iter().filter(|(_, outcome)| !outcome.is_good());
            bad.map(|(name, outcome)| (*column, *name, outcome))
        })
    }

    /// How many cases passed only at their second run.
    fn second_runs(&self) -> usize {
        let all = self.columns.values().flat_map(BTreeMap::values);
        all.filter(|outcome| outcome.first.is_some() && outcome.is_good()).count()
    }

    /// One line for each case, and the total.
    pub fn print(&self, cases: &[Case]) -> Result<String> {
        let mut text = format!("{:<8} {:<44}", "section", "case");
        for column in self.columns.keys() {
            write!(text, " {:<9}", column.to_string())?;
        }
        text += "\n";
        for case in cases {
            write!(text, "{:<8} {:<44}", case.section, case.name)?;
            for (column, outcomes) in &self.columns {
                let word =
                    outcomes.get(case.name).map_or("-", |outcome| word(case, *column, outcome));
                write!(text, " {word:<9}")?;
            }
            text.truncate(text.trim_end().len());
            text += "\n";
        }
        for (column, name, outcome) in self.failures() {
            for problem in outcome.problems() {
                writeln!(text, "FAILED {name} ({column}): {problem}")?;
            }
        }
        let (of_ours, of_modes) = deviations(cases);
        writeln!(
            text,
            "{} cases, {} of ours unlike kube-proxy nftables on purpose, {} where only iptables mode \
             differs, {} {AT_SECOND_RUN}, {} failed",
            cases.len(),
            of_ours.len(),
            of_modes.len(),
            self.second_runs(),
            self.failures().count()
        )?;
        Ok(text)
    }

    /// The page. Every column and every case must have been run, and be as the table says.
    pub fn page(&self, cases: &[Case]) -> Result<String> {
        for column in Column::ALL {
            let outcomes = self.columns.get(&column).map_or(0, BTreeMap::len);
            ensure!(outcomes == cases.len(), "{column} was not run on the whole table");
        }
        ensure!(self.failures().next().is_none(), "the page is only written when nothing fails");
        let mut page = HEAD.to_owned();
        for column in Column::ALL {
            writeln!(page, "- `{column}`: {}", column.title())?;
        }
        page.push_str(HOW);
        write_summary(&mut page, cases)?;
        let mut section = "";
        for case in cases {
            if case.section != section {
                section = case.section;
                writeln!(page, "\n## {section} {}", heading(section))?;
            }
            write_case(&mut page, case)?;
        }
        page += "\n## Upstream tests without a case\n\n| test | why |\n|---|---|\n";
        for (test, reason) in NOT_APPLICABLE {
            writeln!(page, "| {test} | {reason} |")?;
        }
        Ok(page)
    }
}

fn word(case: &Case, column: Column, outcome: &Outcome) -> &'static str {
    if !outcome.is_good() {
        "FAILED"
    } else if lines(case).iter().any(|line| find(line.unlike, column).is_some()) {
        "differs"
    } else {
        "ok"
    }
}

fn lines(case: &Case) -> Vec<Line<'_>> {
    let lines = case.steps.iter().filter_map(|step| match step {
        Step::Act(_) => None,
        Step::Expect(expect) => Some(Line {
            what: expect.to_string(),
            want: expect.want.to_string(),
            unlike: &expect.unlike,
        }),
        Step::Check(check) => {
            Some(Line { what: check.what.to_owned(), want: "so".to_owned(), unlike: &check.unlike })
        }
    });
    lines.collect()
}

/// Differences between ours and kube-proxy nftables, and those of its iptables mode alone: case, what
/// was asked, difference.
type Differences<'a> = Vec<(&'a Case, String, &'a Unlike)>;

fn deviations(cases: &[Case]) -> (Differences<'_>, Differences<'_>) {
    let all = cases.iter().flat_map(|case| {
        let lines = lines(case).into_iter();
        lines.flat_map(move |line| line.unlike.iter().map(move |u| (case, line.what.clone(), u)))
    });
    // What is said of iptables alone is a difference between the modes of kube-proxy.
    all.partition(|(_, _, unlike)| unlike.columns.iter().any(|c| *c != Column::Iptables))
}

fn write_summary(page: &mut String, cases: &[Case]) -> Result<()> {
    let (of_ours, of_modes) = deviations(cases);
    let lines: usize = cases.iter().map(|case| lines(case).len()).sum();
    writeln!(
        page,
        "{} cases with {lines} expectations. Ours differs from kube-proxy in nftables mode in {} of \
         them on purpose; in {} more the two modes of kube-proxy differ and ours follows nftables.",
        cases.len(),
        of_ours.len(),
        of_modes.len()
    )?;
    page.push_str("\n## Differences on purpose\n\n");
    page.push_str("| case | asked | who differs | there | why |\n|---|---|---|---|---|\n");
    for (case, what, Unlike { columns, of: _, want, reason }) in of_ours {
        let columns: Vec<_> = columns.iter().map(Column::to_string).collect();
        writeln!(
            page,
            "| [{name}](#{name}) | {what} | {} | {want} | {reason} |",
            columns.join(", "),
            name = case.name
        )?;
    }
    Ok(())
}

fn write_case(page: &mut String, case: &Case) -> Result<()> {
    writeln!(page, "\n### {}\n\n{}\n", case.name, case.title)?;
    writeln!(page, "| asked | comes to | {} |", Column::names().join(" | "))?;
    writeln!(page, "|---|---|{}", "---|".repeat(Column::ALL.len()))?;
    let lines = lines(case);
    for Line { what, want, unlike } in &lines {
        write!(page, "| {what} | {want} |")?;
        for column in Column::ALL {
            match find(unlike, column) {
                Some(Unlike { of: None, want, .. }) => write!(page, " {want} |")?,
                Some(Unlike { of: Some((client, ways)), want, .. }) => {
                    let ways: Vec<_> = ways.iter().map(Way::to_string).collect();
                    write!(page, " yes; {} over {}: {want} |", client.label, ways.join(", "))?;
                }
                None => page.push_str(" yes |"),
            }
        }
        page.push('\n');
    }
    let mut reasons: Vec<_> =
        lines.iter().flat_map(|line| line.unlike).map(|unlike| unlike.reason).collect();
    reasons.dedup();
    for reason in reasons {
        writeln!(page, "\nWhere it differs: {reason}.")?;
    }
    Ok(())
}

fn heading(section: &str) -> &'static str {
    match section {
        "1.1" => "Which objects are seen",
        "1.2" => "Frontends",
        "1.3" => "Choice of endpoints",
        "1.4" => "Policies",
        "1.5" => "Session affinity",
        "1.6" => "Masquerading",
        "1.7" => "healthCheckNodePort",
        "1.8" => "/healthz and /livez",
        "1.9" => "Metrics",
        "1.10" => "Flows that outlive their endpoint",
        "1.11" => "Nodes and restarts",
        _ => "Upstream end-to-end tests",
    }
}

const HEAD: &str = "\
# Conformance with kube-proxy

Generated by `cargo xtask conformance --write`; not edited by hand.

Every case ran in the lab against

";

const HOW: &str = "
Unless a line says otherwise, it was asked over TCP, UDP (from unconnected and connected sockets) and
SCTP, each over IPv4 and IPv6. *near, far, seeing the client* means that these pods answered, all of
them and no other, and that each saw the client's own address. *yes* means that the column did what
the line says; where one does something else, on purpose or as kube-proxy has it, the column says what.

";

//! What a run has to say, in the terminal and in files.

mod html;
mod json;
mod markdown;
mod plot;
mod table;
mod text;

use crate::{
    round::{Figure, Finding},
    run::Run,
    stats::Estimate,
    target::{Judged, TARGETS, Verdict},
};
use anyhow::{Context as _, Result};
use plot::Plot;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Prints the tables.
pub fn print(run: &Run) {
    let judged = judge(run);
    for Section { title, table } in sections(run, &judged) {
        println!("{title}\n{table}\n");
    }
    if !judged.is_empty() {
        println!("{}", summary(&judged));
    }
}

/// Writes `report.json`, `report.html` and `benchmarks.md` with its plots into a folder; the last also
/// into `docs`. Returns the path of `report.html`.
pub fn write(run: &Run, folder: &Path, docs: Option<&Path>) -> Result<PathBuf> {
    let judged = judge(run);
    let sections = sections(run, &judged);
    let plots = plot::all(run)?;
    let page = markdown::page(run, &sections, &plots);
    for folder in docs.into_iter().chain([folder]) {
        write_page(folder, &page, &plots)?;
    }
    let json = serde_json::to_string_pretty(&json::report(run, &judged))?;
    write_file(&folder.join("report.json"), &json)?;
    let path = folder.join("report.html");
    write_file(&path, &html::page(run, &sections, &plots))?;
    Ok(path)
}

/// A table with its title.
struct Section {
    title: String,
    table: String,
}

/// All tables for which anything was measured.
fn sections(run: &Run, judged: &[Judged]) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut add = |title: &str, table: String| {
        sections.push(Section { title: title.to_owned(), table });
    };
    if !judged.is_empty() {
        add("Targets", table::targets(judged));
    }
    add("Latency and throughput", table::findings(&run.findings));
    if !run.points.is_empty() {
        add("Number of Services", table::scale(&run.points));
        add("Proxies", table::programming(&run.points));
    }
    if let (Some(heavy), Some(point)) = (run.settings.heavy, &run.heavy) {
        add(&heavy.to_string(), table::programming(std::slice::from_ref(point)));
    }
    sections
}

/// `benchmarks.md` and its plots; none of an earlier run is left.
fn write_page(folder: &Path, page: &str, plots: &[Plot]) -> Result<()> {
    let images = folder.join("plots");
    match fs::remove_dir_all(&images) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("remove the plots of an earlier run");
        }
        _ => {}
    }
    fs::create_dir_all(&images).context("make the report's folder")?;
    for plot in plots {
        write_file(&images.join(format!("{}.svg", plot.name)), &plot.svg)?;
    }
    write_file(&folder.join("benchmarks.md"), page)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Holds the run against all targets. They are those of the lab: elsewhere "direct" is not bare routing.
fn judge(run: &Run) -> Vec<Judged> {
    if !run.in_lab {
        return Vec::new();
    }
    let mut judged: Vec<_> =
        TARGETS.iter().filter_map(|target| target.judge(&run.findings)).collect();
    judged.extend(judge_scale(run));
    judged
}

/// The first packet to the last of many Services, against the first packet to the only one.
fn judge_scale(run: &Run) -> Option<Judged> {
    let (few, many) = (run.points.first()?, run.points.last()?);
    let figures = |findings: &[Finding]| {
        let finding = findings.iter().find(|finding| finding.measure.id == "connect-last")?;
        Some(finding.of(crate::target::OURS)?.figures(Figure::P99).to_vec())
    };
    let found = Estimate::of_ratios(&figures(&many.findings)?, &figures(&few.findings)?)?;
    let title = format!("connect, p99: datapath, {} Services ÷ {}", many.services, few.services);
    Some(Judged::at_most(title, found, 1.05))
}

/// The last line.
fn summary(judged: &[Judged]) -> String {
    let count = |verdict| judged.iter().filter(|one| one.verdict == verdict).count();
    let [met, floor, missed] = [Verdict::Met, Verdict::Floor, Verdict::Missed].map(count);
    format!("{met} targets met, {floor} at their floor, {missed} missed")
}

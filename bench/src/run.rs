//! A run from beginning to end.

use crate::{
    cluster::{Client, Cluster, Variant, Way},
    existing::Existing,
    machine::{Cpus, Machine},
    measure::{MEASURES, Measure},
    programming::Effort,
    report,
    round::{self, Finding, Plan, Side},
    scale::{Climb, Heavy, Level, Point},
};
use anyhow::{Context as _, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal as _,
    io::stderr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Five minutes instead of forty.
    pub quick: bool,
    /// Only the measures whose name contains one of these, and no scale unless `services` asks for it.
    pub only: Vec<String>,
    /// Numbers of Services, in growing order; the usual ones if there are none.
    pub services: Vec<usize>,
    /// Where the report goes.
    pub output: PathBuf,
    /// A folder for its page and plots alone.
    pub docs: Option<PathBuf>,
    /// The description of a cluster that is there; the lab's, if none.
    pub cluster: Option<PathBuf>,
}

/// How long each part of a run is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For [`MEASURES`].
    pub plan: Plan,
    /// Numbers of Services.
    pub services: Vec<usize>,
    /// At each of those.
    pub level: Level,
    /// Services with many endpoints, at that number of Services.
    pub heavy: Option<Heavy>,
}

impl Settings {
    /// About five minutes.
    fn quick() -> Self {
        Self {
            plan: Plan { rounds: 8, millis: 150 },
            services: vec![1, 1_000],
            level: Level {
                plan: Plan { rounds: 6, millis: 100 },
                effort: Effort { changes: 10, watch: Duration::from_secs(1) },
            },
            heavy: None,
        }
    }

    /// About forty minutes.
    fn full() -> Self {
        Self {
            plan: Plan { rounds: 16, millis: 400 },
            services: vec![1, 100, 1_000, 10_000, 30_000],
            level: Level {
                plan: Plan { rounds: 15, millis: 200 },
                effort: Effort { changes: 40, watch: Duration::from_secs(3) },
            },
            heavy: Some(Heavy { services: 1_000, endpoints: 250 }),
        }
    }
}

/// All that a run found.
#[derive(Debug)]
pub struct Run {
    /// Where.
    pub machine: Machine,
    /// Whether the clusters were made for it, and nothing else was on the CPU that was measured on.
    pub in_lab: bool,
    /// How.
    pub settings: Settings,
    /// What each measure found.
    pub findings: Vec<Finding>,
    /// What the number of Services does.
    pub points: Vec<Point>,
    /// What Services with many endpoints cost the proxies.
    pub heavy: Option<Point>,
}

/// Runs the benchmark and writes its report: after each part, so that what was found outlives whatever
/// ends the run.
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let run = match &options.cluster {
        None => run_in_lab(options)?,
        Some(path) => run_on(Existing::read(path)?, options)?,
    };
    report::print(&run);
    println!("{}", options.save(&run)?.display());
    say(&format!("{} s in all", start.elapsed().as_secs()));
    Ok(())
}

/// Everything, in clusters of the lab.
fn run_in_lab(options: &Options) -> Result<Run> {
    if let Some(reason) = lab::host::missing() {
        bail!(reason);
    }
    let cpus = Cpus::look()?;
    let mut settings = if options.quick { Settings::quick() } else { Settings::full() };
    let with_scale = options.only.is_empty() || !options.services.is_empty();
    if !options.services.is_empty() {
        settings.services.clone_from(&options.services);
    }
    let measures = options.measures(|_| true)?;
    say(&format!("{} clusters start side by side", Variant::ALL.len()));
    let mut clusters = start_all(&cpus)?;
    let progress = Progress::new(&measures, &clusters, settings.plan);
    let findings = progress.go(&measures, &mut clusters, settings.plan)?;
    let mut run = Run { in_lab: true, ..Run::new(Machine::look(&cpus)?, settings, findings) };
    if with_scale {
        options.save(&run)?;
        clusters.retain(|cluster| cluster.variant.has_api());
        let mut climb = Climb::begin(clusters, run.settings.level)?;
        let tell = |text: String| progress.stage(&text);
        for services in run.settings.services.clone() {
            run.points.push(climb.to(services, tell)?);
            if let Some(heavy) = run.settings.heavy.filter(|heavy| heavy.services == services) {
                run.heavy = Some(climb.heavy(heavy, tell)?);
            }
            options.save(&run)?;
        }
    }
    progress.end();
    Ok(run)
}

/// What can be measured from a pod, in a cluster that is there.
fn run_on(cluster: Existing, options: &Options) -> Result<Run> {
    let cpus = Cpus::look()?;
    let settings = if options.quick { Settings::quick() } else { Settings::full() };
    let measures = options
        .measures(|measure| measure.client == Client::Pod && measure.way == Way::ClusterIp)?;
    let mut ways = cluster.start(cpus.measured)?;
    let progress = Progress::new(&measures, &ways, settings.plan);
    let findings = progress.go(&measures, &mut ways, settings.plan)?;
    progress.end();
    Ok(Run::new(Machine::look(&cpus)?, settings, findings))
}

impl Run {
    fn new(machine: Machine, settings: Settings, findings: Vec<Finding>) -> Self {
        Self { machine, in_lab: false, settings, findings, points: Vec::new(), heavy: None }
    }
}

impl Options {
    /// The measures that there can be and that are asked for.
    fn measures(&self, can_be: impl Fn(&Measure) -> bool) -> Result<Vec<Measure>> {
        let only = &self.only;
        let asked = |id: &str| only.is_empty() || only.iter().any(|part| id.contains(part));
        let measures = MEASURES.iter().filter(|measure| can_be(measure) && asked(measure.id));
        let measures: Vec<_> = measures.copied().collect();
        ensure!(!measures.is_empty(), "no measure has such a name");
        Ok(measures)
    }

    /// Writes the report of what was found so far, and returns its path.
    fn save(&self, run: &Run) -> Result<PathBuf> {
        report::write(run, &self.output, self.docs.as_deref())
    }
}

/// One cluster for each variant.
fn start_all(cpus: &Cpus) -> Result<Vec<Cluster>> {
    let clusters = thread::scope(|scope| {
        let starting = Variant::ALL.map(|variant| scope.spawn(move || Cluster::up(variant, *cpus)));
        starting
            .into_iter()
            .zip(Variant::ALL)
            .map(|(cluster, variant)| {
                let cluster = cluster.join().ok().context("a panic")?;
                cluster.with_context(|| format!("start the cluster: {}", variant.name()))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    cpus.keep_self_off();
    Ok(clusters)
}

/// How far the run is: a bar with the time that is left on a terminal, plain lines elsewhere.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(measures: &[Measure], sides: &[impl Side], plan: Plan) -> Self {
        let taking = |measure: &Measure| {
            sides.iter().filter(|side| measure.applies_to(side.variant())).count()
        };
        let turns = plan.rounds * measures.iter().map(taking).sum::<usize>();
        let style = "{bar:30} {percent:>3} %  {eta} left  {wide_msg}";
        let style = ProgressStyle::with_template(style);
        Self(stderr().is_terminal().then(|| {
            ProgressBar::new(turns as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }))
    }

    /// Measures one thing after the other.
    fn go(
        &self,
        measures: &[Measure],
        sides: &mut [impl Side],
        plan: Plan,
    ) -> Result<Vec<Finding>> {
        let one = |measure: &Measure| {
            self.stage(measure.title);
            round::go(*measure, sides, plan, || self.turn())
        };
        measures.iter().map(one).collect()
    }

    fn stage(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.set_message(text.to_owned()),
            None => say(text),
        }
    }

    fn turn(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn say(text: &str) {
    eprintln!("    {text}");
}

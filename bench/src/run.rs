//! A run from beginning to end.

use crate::{
    cluster::{Client, Cluster, Variant, Way},
    existing::Existing,
    machine::{self, Machine},
    measure::{MEASURES, Measure},
    programming::{self, Heavy, Programming},
    report,
    round::{self, Finding, Plan, Side},
    scale::{self, Point},
};
use anyhow::{Context as _, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal as _, io::stderr, path::PathBuf, thread, time::Instant};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Three minutes instead of forty.
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
    /// For the latency of connections at each of those.
    pub scale_plan: Plan,
    /// Changes of endpoints.
    pub changes: usize,
    /// Services with many endpoints.
    pub heavy: Option<Heavy>,
}

impl Settings {
    /// About three minutes.
    fn quick() -> Self {
        Self {
            plan: Plan { rounds: 8, millis: 150 },
            services: vec![1, 1_000],
            scale_plan: Plan { rounds: 6, millis: 100 },
            changes: 15,
            heavy: None,
        }
    }

    /// At most forty minutes.
    fn full() -> Self {
        Self {
            plan: Plan { rounds: 30, millis: 400 },
            services: vec![1, 100, 1_000, 10_000, 30_000],
            scale_plan: Plan { rounds: 15, millis: 200 },
            changes: 40,
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
    /// How long changes take.
    pub programming: Vec<Programming>,
    /// The same where Services have many endpoints.
    pub heavy: Vec<Programming>,
}

/// Runs the benchmark and writes its report.
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let run = match &options.cluster {
        None => run_in_lab(options)?,
        Some(path) => run_on(Existing::read(path)?, options)?,
    };
    report::write(&run, &options.output, options.docs.as_deref())?;
    say(&format!("{} s in all", start.elapsed().as_secs()));
    Ok(())
}

/// Everything, in clusters of the lab.
fn run_in_lab(options: &Options) -> Result<Run> {
    if let Some(reason) = lab::host::missing() {
        bail!(reason);
    }
    let machine = Machine::look()?;
    let mut settings = if options.quick { Settings::quick() } else { Settings::full() };
    let with_scale = options.only.is_empty() || !options.services.is_empty();
    if !options.services.is_empty() {
        settings.services.clone_from(&options.services);
    }
    let measures = options.measures(|_| true)?;
    say(&format!("{} clusters start side by side", Variant::ALL.len()));
    let mut clusters = start_all(machine.measured_cpu)?;
    let turns = settings.plan.rounds * measures.len() * clusters.len();
    let progress = Progress::new(turns as u64);
    let findings = progress.go(&measures, &mut clusters, settings.plan)?;
    let (mut points, mut programming, mut heavy) = (Vec::new(), Vec::new(), Vec::new());
    if with_scale {
        clusters.retain(|cluster| cluster.variant.has_api());
        let proxied = &mut clusters[..];
        let tell = |text: String| progress.stage(&text);
        points = scale::climb(proxied, &settings.services, settings.scale_plan, tell)?;
        let services = settings.services.last().copied().context("no numbers")?;
        for cluster in &mut *proxied {
            progress.stage(&format!("changes: {}", cluster.variant.name()));
            programming.push(programming::measure(cluster, services, settings.changes)?);
        }
        for (cluster, case) in proxied.iter_mut().zip(std::iter::repeat(settings.heavy)) {
            let Some(case) = case else { break };
            progress.stage(&format!("changes, many endpoints: {}", cluster.variant.name()));
            heavy.push(programming::measure_heavy(cluster, case, settings.changes)?);
        }
    }
    progress.end();
    Ok(Run { machine, in_lab: true, settings, findings, points, programming, heavy })
}

/// What can be measured from a pod, in a cluster that is there.
fn run_on(cluster: Existing, options: &Options) -> Result<Run> {
    let machine = Machine::look()?;
    let settings = if options.quick { Settings::quick() } else { Settings::full() };
    let measures = options
        .measures(|measure| measure.client == Client::Pod && measure.way == Way::ClusterIp)?;
    let mut ways = cluster.start(machine.measured_cpu)?;
    let turns = settings.plan.rounds * measures.len() * ways.len();
    let progress = Progress::new(turns as u64);
    let findings = progress.go(&measures, &mut ways, settings.plan)?;
    progress.end();
    let (points, programming, heavy) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Run { machine, in_lab: false, settings, findings, points, programming, heavy })
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
}

/// One cluster for each variant.
fn start_all(cpu: usize) -> Result<Vec<Cluster>> {
    let clusters = thread::scope(|scope| {
        let starting = Variant::ALL.map(|variant| scope.spawn(move || Cluster::up(variant, cpu)));
        starting
            .into_iter()
            .zip(Variant::ALL)
            .map(|(cluster, variant)| {
                let cluster = cluster.join().ok().context("a panic")?;
                cluster.with_context(|| format!("start the cluster: {}", variant.name()))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    machine::keep_off(std::process::id().cast_signed(), cpu)?;
    Ok(clusters)
}

/// How far the run is: a bar with the time that is left on a terminal, plain lines elsewhere.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(turns: u64) -> Self {
        let style = "{bar:30} {percent:>3} %  {eta} left  {wide_msg}";
        let style = ProgressStyle::with_template(style);
        Self(stderr().is_terminal().then(|| {
            ProgressBar::new(turns)
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

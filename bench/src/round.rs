//! Going round: each variant in turn, again and again.

use crate::{
    cluster::{Client, Server, Variant, Way},
    load::order::{Report, Work},
    measure::{Measure, Unit},
    stats::Estimate,
};
use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use std::net::SocketAddr;

/// One side of a comparison: servers and a way to them.
pub trait Side {
    /// What it is.
    fn variant(&self) -> Variant;

    /// The address for a way to a server. An error where the side has no such way.
    fn address(&self, way: Way, server: Server, port: u16) -> Result<SocketAddr>;

    /// Sends, and returns what came of it.
    fn work(&mut self, client: Client, work: Work) -> Result<Report>;
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds of each measure.
    pub rounds: usize,
    /// What each variant gets in a round.
    pub millis: u64,
}

/// What a measure found.
#[derive(Debug)]
pub struct Finding {
    /// The measure.
    pub measure: Measure,
    /// What it found of each variant.
    pub series: Vec<Series>,
}

/// What a measure found of one variant.
#[derive(Debug)]
pub struct Series {
    /// The variant.
    pub variant: Variant,
    /// The figure of each round: the median latency, or the throughput.
    pub typical: Vec<f64>,
    /// Of each round, the latency that 99 % stay below.
    pub p99: Vec<f64>,
    /// Of each round, requests or bytes a second.
    pub rate: Vec<f64>,
    /// All latencies.
    pub latencies: Histogram<u64>,
    /// Requests without an answer.
    pub failures: u64,
    /// Why the last one had none.
    pub failure: Option<String>,
    /// Turns that came to nothing and were taken again.
    pub again: u64,
}

/// One of a series' figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    /// [`Series::typical`].
    Typical,
    /// [`Series::p99`].
    P99,
    /// [`Series::rate`].
    Rate,
}

/// How often a turn is taken again that came to nothing: a stalled connection has eaten it, as one lost
/// packet does with so short a turn.
const AGAIN: u64 = 3;

/// Measures all sides that the measure applies to, in turn. Every other round goes backwards, so
/// that nobody always comes after the same one.
pub fn go(
    measure: Measure,
    sides: &mut [impl Side],
    plan: Plan,
    turn: impl Fn(),
) -> Result<Finding> {
    let mut taking: Vec<_> =
        sides.iter_mut().filter(|side| measure.applies_to(side.variant())).collect();
    let mut series: Vec<_> = taking.iter().map(|side| Series::new(side.variant())).collect();
    for round in 0..plan.rounds {
        let mut order: Vec<_> = (0..taking.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (side, series) = (&mut *taking[index], &mut series[index]);
            let left = AGAIN.saturating_sub(series.again);
            series.again += take_turn(measure, side, series, plan.millis, left)
                .with_context(|| format!("{}, {}", measure.title, side.variant().name()))?;
            turn();
        }
    }
    Ok(Finding { measure, series })
}

/// One turn of a side, up to `left` times again. Returns how often it was.
fn take_turn(
    measure: Measure,
    side: &mut impl Side,
    series: &mut Series,
    millis: u64,
    left: u64,
) -> Result<u64> {
    let to = side.address(measure.way, measure.server, measure.port())?;
    let mut again = 0;
    loop {
        let report = side.work(measure.client, measure.work(to, millis));
        match report.and_then(|report| series.add(measure.unit(), &report)) {
            Ok(()) => return Ok(again),
            Err(_) if again < left => again += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Series {
    fn new(variant: Variant) -> Self {
        Self {
            variant,
            typical: Vec::new(),
            p99: Vec::new(),
            rate: Vec::new(),
            latencies: Histogram::new(3).expect("three digits are allowed"),
            failures: 0,
            failure: None,
            again: 0,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "figures with three digits")]
    fn add(&mut self, unit: Unit, report: &Report) -> Result<()> {
        let why = report.failure.as_deref().unwrap_or("nothing was sent");
        ensure!(report.requests > 0 || report.bytes > 0, "no answer at all: {why}");
        let seconds = report.nanos as f64 / 1e9;
        self.failures += report.failures;
        self.failure = report.failure.clone().or_else(|| self.failure.take());
        let mut round = Histogram::<u64>::new(3)?;
        for (nanos, count) in &report.latencies {
            round.record_n(*nanos, *count)?;
        }
        self.latencies.add(&round)?;
        let (typical, p99, rate) = match unit {
            Unit::BytesPerSecond => {
                let rate = report.bytes as f64 / seconds;
                (rate, rate, rate)
            }
            Unit::Nanoseconds if round.is_empty() => {
                let each = report.nanos as f64 / report.requests as f64;
                (each, each, report.requests as f64 / seconds)
            }
            Unit::Nanoseconds => {
                let at = |quantile| round.value_at_quantile(quantile) as f64;
                (at(0.5), at(0.99), report.requests as f64 / seconds)
            }
        };
        self.typical.push(typical);
        self.p99.push(p99);
        self.rate.push(rate);
        Ok(())
    }

    /// One of the figures, round by round.
    pub fn figures(&self, figure: Figure) -> &[f64] {
        match figure {
            Figure::Typical => &self.typical,
            Figure::P99 => &self.p99,
            Figure::Rate => &self.rate,
        }
    }
}

impl Finding {
    /// What was found of a variant.
    pub fn of(&self, variant: Variant) -> Option<&Series> {
        self.series.iter().find(|series| series.variant == variant)
    }

    /// A figure of `variant` ÷ that of `baseline`.
    pub fn ratio(&self, variant: Variant, baseline: Variant, figure: Figure) -> Option<Estimate> {
        let (variant, baseline) = (self.of(variant)?, self.of(baseline)?);
        Estimate::of_ratios(variant.figures(figure), baseline.figures(figure))
    }
}

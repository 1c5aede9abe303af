//! What the figures are to be, and whether they are.

use crate::{
    cluster::Variant,
    round::{Figure, Finding},
    stats::Estimate,
};
use serde::Serialize;

/// A ratio and what it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    measure: &'static str,
    figure: Figure,
    variant: Variant,
    baseline: Variant,
    bound: Bound,
}

/// On which side of its limits a ratio is to be: first what is wanted, then what is the least.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64, f64),
    AtLeast(f64, f64),
}

/// Whether a target is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not, but the least is.
    Floor,
    /// Not even the least is.
    Missed,
}

/// A target with what was found.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Which ratio of what.
    pub title: String,
    /// What was wanted.
    pub wanted: String,
    /// What was found.
    pub found: Estimate,
    /// Whether that is enough.
    pub verdict: Verdict,
    /// Whether the interval lies on one side of the limit.
    pub sure: bool,
}

/// Ours, as it is by default.
pub const OURS: Variant = Variant::Ours { socket_lb: true };
const XDP: Variant = Variant::Xdp("native");
const TC: Variant = Variant::Ours { socket_lb: false };
const TUNNEL: Variant = Variant::Tunnel;
const DIRECT: Variant = Variant::Direct;
const IPTABLES: Variant = Variant::KubeProxy("iptables");
const NFTABLES: Variant = Variant::KubeProxy("nftables");

const fn target(
    measure: &'static str,
    figure: Figure,
    (variant, baseline): (Variant, Variant),
    bound: Bound,
) -> Target {
    Target { measure, figure, variant, baseline, bound }
}

use Bound::{AtLeast, AtMost};
use Figure::{P99, Rate, Typical};

/// All targets that are ratios within a round.
pub const TARGETS: &[Target] = &[
    target("rr-near", Typical, (OURS, DIRECT), AtMost(0.92, 1.00)),
    target("rr-far", Typical, (OURS, DIRECT), AtMost(0.92, 1.00)),
    target("rr-near", P99, (OURS, DIRECT), AtMost(1.00, 1.05)),
    target("rr-far", P99, (OURS, DIRECT), AtMost(1.00, 1.05)),
    target("rr-near", Typical, (OURS, IPTABLES), AtMost(0.85, 0.92)),
    target("rr-far", Typical, (OURS, IPTABLES), AtMost(0.85, 0.92)),
    target("crr-near", Typical, (OURS, DIRECT), AtMost(0.97, 1.02)),
    target("crr-far", Typical, (OURS, DIRECT), AtMost(0.97, 1.02)),
    target("crr-near", Typical, (OURS, IPTABLES), AtMost(0.80, 0.88)),
    target("crr-far", Typical, (OURS, IPTABLES), AtMost(0.80, 0.88)),
    target("crr-far", Typical, (OURS, NFTABLES), AtMost(0.80, 0.88)),
    target("rr-near", Typical, (TC, DIRECT), AtMost(0.97, 1.03)),
    target("rr-far", Typical, (TC, DIRECT), AtMost(0.97, 1.03)),
    target("stream-far", Rate, (TC, DIRECT), AtLeast(1.00, 0.98)),
    target("crr-far", Rate, (TC, DIRECT), AtLeast(0.95, 0.90)),
    target("stream-far", Rate, (OURS, DIRECT), AtLeast(1.00, 0.98)),
    target("streams-far", Rate, (OURS, DIRECT), AtLeast(1.00, 0.98)),
    target("stream-far", Rate, (TUNNEL, OURS), AtLeast(0.95, 0.85)),
    target("rr-far", Rate, (TUNNEL, OURS), AtLeast(0.96, 0.92)),
    target("nodeport-flood-far", Rate, (OURS, IPTABLES), AtLeast(1.7, 1.3)),
    target("nodeport-frames-far", Rate, (OURS, IPTABLES), AtLeast(1.7, 1.3)),
    target("nodeport-frames-far", Rate, (XDP, IPTABLES), AtLeast(4.0, 3.0)),
];

impl Target {
    /// Holds the findings against the target; none where it was not measured.
    pub fn judge(&self, findings: &[Finding]) -> Option<Judged> {
        let finding = findings.iter().find(|finding| finding.measure.id == self.measure)?;
        let found = finding.ratio(self.variant, self.baseline, self.figure)?;
        let figure = match self.figure {
            Typical => "p50",
            P99 => "p99",
            Rate => "rate",
        };
        let (variant, baseline) = (self.variant.name(), self.baseline.name());
        let title = format!("{}, {figure}: {variant} ÷ {baseline}", finding.measure.title);
        Some(Judged::of(title, self.bound, found))
    }
}

impl Judged {
    /// A ratio that is to be at most `limit`.
    pub fn at_most(title: String, found: Estimate, limit: f64) -> Self {
        Self::of(title, AtMost(limit, limit), found)
    }

    fn of(title: String, bound: Bound, found: Estimate) -> Self {
        Self {
            title,
            wanted: bound.to_string(),
            found,
            verdict: bound.verdict(found.value),
            sure: bound.verdict(found.low) == bound.verdict(found.high),
        }
    }
}

impl Bound {
    fn verdict(self, ratio: f64) -> Verdict {
        let (met, floor) = match self {
            AtMost(wanted, least) => (ratio <= wanted, ratio <= least),
            AtLeast(wanted, least) => (ratio >= wanted, ratio >= least),
        };
        match (met, floor) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Floor,
            (false, false) => Verdict::Missed,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AtMost(wanted, least) => write!(f, "≤ {wanted:.2} ({least:.2})"),
            AtLeast(wanted, least) => write!(f, "≥ {wanted:.2} ({least:.2})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_target_and_floor_lies_the_floor() {
        for (bound, ratio, verdict) in [
            (AtMost(0.92, 1.0), 0.92, Verdict::Met),
            (AtMost(0.92, 1.0), 0.93, Verdict::Floor),
            (AtMost(0.92, 1.0), 1.01, Verdict::Missed),
            (AtLeast(1.7, 1.3), 1.8, Verdict::Met),
            (AtLeast(1.7, 1.3), 1.3, Verdict::Floor),
            (AtLeast(1.7, 1.3), 1.2, Verdict::Missed),
        ] {
            assert_eq!(bound.verdict(ratio), verdict, "{bound} {ratio}");
        }
    }

    #[test]
    fn every_target_names_a_measure_that_there_is() {
        for target in TARGETS {
            let known = crate::measure::MEASURES.iter().any(|m| m.id == target.measure);
            assert!(known, "{}", target.measure);
        }
    }
}

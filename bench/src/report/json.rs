//! `report.json`.

use crate::{
    cluster::Variant,
    round::{Figure, Finding, Series},
    run::Run,
    scale::Point,
    stats::Estimate,
    target::Judged,
};
use serde_json::{Value, json};

/// Everything that the run found.
pub(super) fn report(run: &Run, judged: &[Judged]) -> Value {
    let findings: Vec<_> = run.findings.iter().map(finding).collect();
    let scale: Vec<_> = run.points.iter().map(point).collect();
    json!({
        "machine": run.machine,
        "rounds": run.settings.plan.rounds,
        "millis": run.settings.plan.millis,
        "measures": findings,
        "scale": scale,
        "many_endpoints": run.heavy.as_ref().map(point),
        "targets": judged,
    })
}

fn point(point: &Point) -> Value {
    let findings: Vec<_> = point.findings.iter().map(finding).collect();
    json!({
        "services": point.services,
        "measures": findings,
        "proxies": point.programming,
        "lost": point.lost,
    })
}

fn finding(finding: &Finding) -> Value {
    let series: Vec<_> = finding.series.iter().map(|one| series(finding, one)).collect();
    json!({
        "id": finding.measure.id,
        "title": finding.measure.title,
        "unit": finding.measure.unit(),
        "variants": series,
    })
}

fn series(finding: &Finding, series: &Series) -> Value {
    let at = |quantile| series.latencies.value_at_quantile(quantile);
    let ratio = |baseline| finding.ratio(series.variant, baseline, Figure::Typical);
    json!({
        "variant": series.variant,
        "typical": Estimate::of(&series.typical),
        "p99": Estimate::of(&series.p99),
        "rate": Estimate::of(&series.rate),
        "all": {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999)},
        "failures": series.failures,
        "last_failure": series.failure,
        "turns_again": series.again,
        "to_direct": ratio(Variant::Direct),
        "to_iptables": ratio(Variant::KubeProxy("iptables")),
        "to_nftables": ratio(Variant::KubeProxy("nftables")),
        "rounds": series.typical,
    })
}

//! Plots, as SVG.

use crate::{
    cluster::Variant,
    measure::Unit,
    round::{Finding, Series},
    run::Run,
    scale::Point,
    stats::Estimate,
};
use anyhow::Result;
use plotters::{
    coord::Shift,
    element::ErrorBar,
    prelude::{
        ChartBuilder, DrawingArea, IntoDrawingArea as _, IntoLogRange as _, PathElement, RGBColor,
        Rectangle, SVGBackend, SeriesLabelPosition, WHITE,
    },
    series::LineSeries,
    style::Color as _,
};

/// A plot.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) svg: String,
}

const SIZE: (u32, u32) = (640, 360);
const FONT: (&str, u32) = ("sans-serif", 13);

/// All plots of a run.
pub(super) fn all(run: &Run) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for finding in &run.findings {
        let (id, title) = (finding.measure.id, finding.measure.title);
        plots.push(plot(&format!("{id}-bars"), title, |area| bars(finding, area))?);
        if finding.series.iter().any(|series| !series.latencies.is_empty()) {
            let title = format!("{title}: share of requests within a time");
            plots.push(plot(&format!("{id}-cdf"), &title, |area| cdf(finding, area))?);
        }
    }
    let Some(point) = run.points.first() else { return Ok(plots) };
    for (index, finding) in point.findings.iter().enumerate() {
        let id = finding.measure.id;
        let title = format!("connect to {}, by number of Services", finding.measure.title);
        let micros = |point: &Point, variant| {
            let series = point.findings.get(index)?.of(variant)?;
            Some(Estimate::of(&series.typical)?.value / 1e3)
        };
        plots.push(plot(id, &title, |area| climb(&run.points, "µs", micros, area))?);
    }
    let title = "endpoint change until a pod can connect, p50, by number of Services";
    let millis = |point: &Point, variant| {
        Some(point.programming.iter().find(|found| found.variant == variant)?.p50_ms)
    };
    plots.push(plot("change", title, |area| climb(&run.points, "ms", millis, area))?);
    Ok(plots)
}

fn plot<'a>(
    name: &str,
    title: &str,
    draw: impl FnOnce(&Area<'_>) -> Result<()> + 'a,
) -> Result<Plot> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(Plot { name: name.to_owned(), title: title.to_owned(), svg })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn color(variant: Variant) -> RGBColor {
    match variant {
        Variant::Direct => RGBColor(120, 120, 120),
        Variant::KubeProxy("nftables") => RGBColor(230, 159, 0),
        Variant::KubeProxy(_) => RGBColor(213, 94, 0),
        Variant::Ours { socket_lb: true } => RGBColor(0, 114, 178),
        Variant::Ours { socket_lb: false } => RGBColor(86, 180, 233),
        Variant::Tunnel => RGBColor(0, 158, 115),
        Variant::Xdp("native") => RGBColor(136, 34, 85),
        Variant::Xdp(_) => RGBColor(204, 121, 167),
    }
}

/// The typical figures with their intervals.
fn bars(finding: &Finding, area: &Area<'_>) -> Result<()> {
    let (scale, unit) = match finding.measure.unit() {
        Unit::Nanoseconds => (1e-3, "µs"),
        Unit::BytesPerSecond => (8e-9, "Gbit/s"),
    };
    let estimates: Vec<(&Series, Estimate)> = finding
        .series
        .iter()
        .filter_map(|series| Some((series, Estimate::of(&series.typical)?)))
        .collect();
    let high = estimates.iter().map(|(_, e)| e.high.min(e.value * 2.0) * scale).fold(0.0, f64::max);
    let count = estimates.len() as u32;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(8)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..f64::from(count), 0.0..high * 1.3)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(unit)
        .label_style(FONT)
        .draw()?;
    for (place, (series, estimate)) in (0_u32..).zip(&estimates) {
        let (left, right) = (f64::from(place) + 0.2, f64::from(place) + 0.8);
        let color = color(series.variant);
        let value = estimate.value * scale;
        let bar = Rectangle::new([(left, 0.0), (right, value)], color.filled());
        let name = format!("{} {value:.2}", series.variant.name());
        chart
            .draw_series([bar])?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()));
        let middle = f64::midpoint(left, right);
        let (low, high) = (estimate.low * scale, estimate.high * scale);
        let style = plotters::style::BLACK.stroke_width(1);
        chart.draw_series([ErrorBar::new_vertical(middle, low, value, high, style, 8)])?;
    }
    let labels = SeriesLabelPosition::UpperRight;
    chart.configure_series_labels().position(labels).label_font(FONT).draw()?;
    Ok(())
}

/// The distribution of all latencies, up to 99.5 %.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn cdf(finding: &Finding, area: &Area<'_>) -> Result<()> {
    let at = |series: &Series, quantile| series.latencies.value_at_quantile(quantile) as f64 / 1e3;
    let with = || finding.series.iter().filter(|series| !series.latencies.is_empty());
    let low = with().map(|series| at(series, 0.0)).fold(f64::INFINITY, f64::min);
    let high = with().map(|series| at(series, 0.99)).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(low..high, 0.0..100.0)?;
    chart.configure_mesh().x_desc("µs").y_desc("% of requests").label_style(FONT).draw()?;
    for series in with() {
        let color = color(series.variant);
        let steps = (0_u32..=990).map(|step| f64::from(step) / 1000.0);
        let line = steps.map(|quantile| (at(series, quantile), quantile * 100.0));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))?
            .label(series.variant.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color));
    }
    let labels = SeriesLabelPosition::LowerRight;
    chart.configure_series_labels().position(labels).label_font(FONT).draw()?;
    Ok(())
}

/// A figure by number of Services.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn climb(
    points: &[Point],
    unit: &str,
    figure: impl Fn(&Point, Variant) -> Option<f64>,
    area: &Area<'_>,
) -> Result<()> {
    let at = |point: &Point, variant| Some((point.services as f64, figure(point, variant)?));
    let line = |variant| points.iter().filter_map(move |point| at(point, variant));
    let all = || Variant::ALL.into_iter().flat_map(line);
    let most = all().map(|(services, _)| services).fold(10.0, f64::max);
    let high = all().map(|(_, figure)| figure).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((1.0..most).log_scale(), 0.0..high * 1.3)?;
    chart.configure_mesh().x_desc("Services").y_desc(unit).label_style(FONT).draw()?;
    for variant in Variant::ALL.into_iter().filter(|variant| line(*variant).next().is_some()) {
        let color = color(variant);
        chart
            .draw_series(LineSeries::new(line(variant), color.stroke_width(2)))?
            .label(variant.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color));
    }
    let labels = SeriesLabelPosition::UpperLeft;
    chart.configure_series_labels().position(labels).label_font(FONT).draw()?;
    Ok(())
}

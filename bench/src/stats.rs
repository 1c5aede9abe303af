//! What can be said about figures that vary.

use serde::Serialize;

/// A figure with its 95 % confidence interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Estimate {
    /// The best guess.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Estimate {
    /// The median of figures that were measured independently, and those of them between which the true
    /// one lies (the interval that follows from the signs, whatever the distribution). A machine that stands
    /// still for a while spoils some of the figures by orders of magnitude: those do not count for more
    /// than others. Below six figures the interval is all of them, and less sure.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (last, outside) = (sorted.len().checked_sub(1)?, beyond(sorted.len()));
        let value = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Some(Self { value, low: sorted[outside], high: sorted[last - outside] })
    }

    /// Of ratios, pair by pair.
    pub fn of_ratios(figures: &[f64], baseline: &[f64]) -> Option<Self> {
        let ratios: Vec<_> = figures.iter().zip(baseline).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }
}

/// How many of `count` figures can be left out at either end of a two-sided 95 % interval of their median:
/// each lies below it as a coin falls.
fn beyond(count: usize) -> usize {
    // The chance of `fewer` figures below, and of as many or fewer.
    let (mut chance, mut total) = (0.5_f64.powf(f64::from(count as u32)), 0.0);
    for fewer in 0..count {
        total += chance;
        if total > 0.025 {
            return fewer.saturating_sub(1);
        }
        chance *= f64::from((count - fewer) as u32) / f64::from(fewer as u32 + 1);
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_figures_leave_no_doubt() {
        let estimate = Estimate::of(&[2.0; 5]).expect("an estimate");
        assert!((estimate.value - 2.0).abs() < 1e-9 && estimate.high - estimate.low < 1e-9);
    }

    #[test]
    fn the_interval_is_that_of_the_signs() {
        // Figures left out at either end, by tables of the sign test.
        for (count, outside) in
            [(1, 0), (2, 0), (5, 0), (6, 0), (8, 0), (9, 1), (15, 3), (20, 5), (30, 9)]
        {
            assert_eq!(beyond(count), outside, "{count}");
        }
    }

    #[test]
    fn one_bad_figure_moves_nothing() {
        let mut figures: Vec<_> = (0..20).map(|number| 100.0 + f64::from(number)).collect();
        let good = Estimate::of(&figures).expect("an estimate");
        figures[19] = 1e6;
        assert_eq!(Estimate::of(&figures), Some(good));
        assert!((good.value - 109.5).abs() < 1e-9);
        assert!((good.low - 105.0).abs() < 1e-9 && (good.high - 114.0).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine became twice as slow; the ratio did not change.
        let estimate = Estimate::of_ratios(&[9.0, 18.0], &[10.0, 20.0]).expect("an estimate");
        assert!((estimate.value - 0.9).abs() < 1e-9 && estimate.high - estimate.low < 1e-9);
        assert_eq!(Estimate::of(&[]), None);
    }
}

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
    /// The geometric mean of positive figures that were measured independently. Ratios and latencies
    /// vary by factors, so the interval is that of Student's t for their logarithms.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let logs: Vec<_> =
            figures.iter().filter(|figure| **figure > 0.0).map(|figure| figure.ln()).collect();
        let count = f64::from(logs.len() as u32);
        let mean = logs.iter().sum::<f64>() / count;
        if logs.len() < 2 {
            let value = logs.first()?.exp();
            return Some(Self { value, low: 0.0, high: f64::INFINITY });
        }
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let margin = student(logs.len() - 1) * (variance / count).sqrt();
        Some(Self { value: mean.exp(), low: (mean - margin).exp(), high: (mean + margin).exp() })
    }

    /// Of ratios, pair by pair.
    pub fn of_ratios(figures: &[f64], baseline: &[f64]) -> Option<Self> {
        let ratios: Vec<_> = figures.iter().zip(baseline).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }
}

/// The factor of a two-sided 95 % interval (Student's t, by degrees of freedom).
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    TABLE.get(freedom.wrapping_sub(1)).copied().unwrap_or(1.984)
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
    fn the_interval_is_students() {
        // Logarithms -1, 0, 1: mean 0, standard error 1/sqrt(3), t(2) = 4.303.
        let figures = [-1.0_f64, 0.0, 1.0].map(f64::exp);
        let estimate = Estimate::of(&figures).expect("an estimate");
        assert!((estimate.high.ln() - 4.303 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert!((estimate.value - 1.0).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine became twice as slow; the ratio did not change.
        let estimate = Estimate::of_ratios(&[9.0, 18.0], &[10.0, 20.0]).expect("an estimate");
        assert!((estimate.value - 0.9).abs() < 1e-9 && estimate.high - estimate.low < 1e-9);
        assert_eq!(Estimate::of(&[]), None);
    }
}

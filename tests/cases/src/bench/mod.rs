//! Measurements, each beside its yardstick.

pub mod agent;
pub mod collector;
pub mod decode;
pub mod drops;
mod place;
pub mod predictor;

use serde_json::{Value, json};

/// One figure over some runs.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured under which conditions.
    pub case: Value,
    /// Its name, with the unit left out.
    pub metric: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// One value a run.
    pub values: Vec<f64>,
    /// What to hold it against, by name.
    pub yardstick: Value,
}

impl Figure {
    /// The middle one of all runs.
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// As a line of JSON.
    pub fn json(&self, bench: &str) -> Value {
        let all = || self.values.iter().copied();
        json!({
            "bench": bench,
            "case": self.case,
            "metric": self.metric,
            "unit": self.unit,
            "value": rounded(self.median()),
            "runs": self.values.len(),
            "min": rounded(all().fold(f64::INFINITY, f64::min)),
            "max": rounded(all().fold(f64::NEG_INFINITY, f64::max)),
            "yardstick": self.yardstick,
        })
    }
}

/// To a thousandth: more digits are noise.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_its_median_between_its_extremes() {
        let figure = Figure {
            case: json!({"load": "rest"}),
            metric: "cpu",
            unit: "%",
            values: vec![0.3, 0.1, 0.123_456],
            yardstick: json!({"goal": 0.1}),
        };
        let expected = json!({
            "bench": "agent", "case": {"load": "rest"}, "metric": "cpu", "unit": "%",
            "value": 0.123, "runs": 3, "min": 0.1, "max": 0.3, "yardstick": {"goal": 0.1},
        });
        assert_eq!(figure.json("agent"), expected);
    }
}

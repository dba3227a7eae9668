//! Measured numbers with name, unit and target, on the terminal and as JSON. Knows nothing of how they were measured.

use crate::statistics::{median, median_ratio};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// The range in which a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TargetRange {
    /// The value must not exceed this number.
    AtMost(f64),
    /// The value must not be below this number.
    AtLeast(f64),
    /// The value must not be below the first number, nor exceed the second.
    Between(f64, f64),
}

impl TargetRange {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Between(least, most) => (least..=most).contains(&value),
        }
    }
}

impl fmt::Display for TargetRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(formatter, "≤ {most}"),
            Self::AtLeast(least) => write!(formatter, "≥ {least}"),
            Self::Between(least, most) => write!(formatter, "{least} to {most}"),
        }
    }
}

/// A measured number, with its name and unit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// The figure's name in the JSON, such as `forward_ratio_onnxruntime_b1_t2`.
    pub(crate) name: String,
    /// The figure's description in the table: its name, unless [`Figure::labelled`] gives another description.
    label: String,
    /// The number, in `unit`.
    pub(crate) value: f64,
    /// The unit in the table; empty for counts and ratios.
    unit: &'static str,
    target: Option<TargetRange>,
}

impl Figure {
    /// A figure without a target.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let name = name.into();
        Self { label: name.clone(), name, value, unit, target: None }
    }

    /// A figure that is the median of `values`.
    ///
    /// # Panics
    /// If there are no values.
    pub(crate) fn median(name: impl Into<String>, values: impl IntoIterator<Item = f64>, unit: &'static str) -> Self {
        Self::new(name, median(values.into_iter().collect()).expect("at least one round was measured"), unit)
    }

    /// A figure that is the median of the ratios `own / theirs`, one for each round. See [`median_ratio`].
    ///
    /// # Panics
    /// If there are no rounds.
    pub(crate) fn ratio(name: impl Into<String>, own: &[f64], theirs: &[f64]) -> Self {
        Self::new(name, median_ratio(own, theirs).expect("at least one round was measured"), "")
    }

    /// This figure with the description `label` in the table.
    pub(crate) fn labelled(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// This figure with a target.
    pub(crate) fn with_target(self, target: TargetRange) -> Self {
        Self { target: Some(target), ..self }
    }

    fn row(&self, label_width: usize) -> String {
        let verdict = self.target.map(|target| {
            let verdict = if target.holds(self.value) { "held" } else { "missed" };
            format!("{:<10} {verdict}", target.to_string())
        });
        let Self { label, value, unit, .. } = self;
        // The targets of percentages have up to two decimals.
        let number = if *unit == "%" { format!("{value:.2}") } else { rounded(*value) };
        let row = format!("{label:<label_width$} {number:>10} {unit:<6} {}", verdict.unwrap_or_default());
        row.trim_end().to_owned()
    }
}

/// Prints the figures as a table.
pub(crate) fn print(figures: &[Figure]) {
    let width = figures.iter().map(|figure| figure.label.chars().count()).max().unwrap_or_default();
    println!("\n{:<width$} {:>10} {:<6} target", "figure", "value", "unit");
    for figure in figures {
        println!("{}", figure.row(width));
    }
}

/// The figures as JSON: `{"figures": {NAME: VALUE, …}}`.
pub(crate) fn json(figures: &[Figure]) -> Value {
    let named: BTreeMap<&str, f64> = figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
    json!({ "figures": named })
}

/// The value as text with at most three decimals. Large values have fewer decimals, since the last ones would be noise.
fn rounded(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1e-3.. => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_ends_with_whether_the_figure_held_its_target() {
        for (target, value, ending) in [
            (Some(TargetRange::AtMost(0.3)), 0.3, "held"),
            (Some(TargetRange::AtMost(0.3)), 0.31, "missed"),
            (Some(TargetRange::AtLeast(0.95)), 0.96, "held"),
            (Some(TargetRange::AtLeast(0.95)), 0.94, "missed"),
            (Some(TargetRange::Between(0.5, 1.5)), 1.5, "held"),
            (Some(TargetRange::Between(0.5, 1.5)), 0.4, "missed"),
            (None, 30.0, "ms"),
        ] {
            let row = Figure { target, ..Figure::new("added_ms", value, "ms") }.row(20);
            assert!(row.ends_with(ending), "{row}");
        }
    }

    #[test]
    fn large_values_have_fewer_decimals_and_percentages_two() {
        for (value, text) in [
            (19_261.0, "19261"),
            (256.25, "256"),
            (24.91, "24.9"),
            (0.7345, "0.735"),
            (-0.01, "-0.010"),
            (2e-6, "2.0e-6"),
        ] {
            assert_eq!(rounded(value), text);
        }
        assert!(Figure::new("attainment", 99.853, "%").row(0).contains(" 99.85 %"));
    }

    #[test]
    fn the_json_has_every_figure_under_its_name() {
        let figures = [Figure::new("rss_mb", 250.5, "MB").labelled("resident memory")];
        assert_eq!(json(&figures)["figures"]["rss_mb"], 250.5);
    }
}

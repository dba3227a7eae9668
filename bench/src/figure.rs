//! One number with its name, unit and target, on the terminal and as JSON.

use super::super::figures::median;
use serde_json::Value;
use std::collections::BTreeMap;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Flat, such as `forward_ratio_onnxruntime_b1_t2`.
    pub name: String,
    /// In the unit that the name ends with, or says.
    pub value: f64,
    /// For people.
    pub unit: &'static str,
}

/// What the replica is judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

const TARGETS: [(&str, Target); 9] = [
    ("forward_ratio_onnxruntime_b1", Target::AtMost(0.75)),
    ("forward_ratio_onnxruntime_b8", Target::AtMost(0.65)),
    ("forward_ratio_onnxruntime_b1_t2", Target::AtMost(0.90)),
    ("forward_ratio_onnxruntime_b8_t2", Target::AtMost(0.80)),
    ("cpu_ratio_flask", Target::AtMost(0.30)),
    ("throughput_ratio", Target::AtLeast(0.95)),
    ("added_ms", Target::AtMost(0.3)),
    ("startup_s", Target::AtMost(0.7)),
    ("rss_mb", Target::AtMost(300.0)),
];

impl Figure {
    /// The median of values that were measured one after another.
    ///
    /// # Panics
    /// If there is none.
    pub fn median(name: impl Into<String>, values: impl IntoIterator<Item = f64>, unit: &'static str) -> Self {
        let value = median(values.into_iter().collect()).expect("something was measured");
        Self { name: name.into(), value, unit }
    }

    /// The median of the rounds' ratios, so that whatever the machine did in a round is in both parts of its ratio.
    ///
    /// # Panics
    /// If there is none.
    pub fn ratio(name: impl Into<String>, own: &[f64], theirs: &[f64]) -> Self {
        Self::median(name, own.iter().zip(theirs).map(|(own, theirs)| own / theirs), "")
    }

    fn row(&self) -> String {
        let target = TARGETS.iter().find(|(name, _)| *name == self.name).map(|(_, target)| *target);
        let target = match target {
            Some(Target::AtMost(most)) => format!("≤ {most:<6} {}", verdict(self.value <= most)),
            Some(Target::AtLeast(least)) => format!("≥ {least:<6} {}", verdict(self.value >= least)),
            None => String::new(),
        };
        // Three decimals, but not of what is smaller.
        let value = self.value;
        let value = if value != 0.0 && value.abs() < 1e-3 { format!("{value:.1e}") } else { format!("{value:.3}") };
        format!("{:<36} {value:>10} {:<4} {target}", self.name, self.unit).trim_end().to_owned()
    }
}

/// Prints a table.
pub fn print(figures: &[Figure]) {
    println!("\n{:<36} {:>10} {:<4} target", "figure", "value", "unit");
    for figure in figures {
        println!("{}", figure.row());
    }
}

/// `{"figures": {name: value}}`
pub fn json(figures: &[Figure]) -> String {
    let named: BTreeMap<&str, Value> =
        figures.iter().map(|figure| (figure.name.as_str(), figure.value.into())).collect();
    format!("{:#}\n", serde_json::json!({ "figures": named }))
}

fn verdict(held: bool) -> &'static str {
    if held { "held" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_themselves() {
        // A machine that is slower from round to round: the ratio of medians would be 0.6.
        let figure = Figure::ratio("x", &[10.0, 30.0, 80.0], &[20.0, 50.0, 100.0]);
        assert_eq!(figure, Figure { name: "x".into(), value: 0.6, unit: "" });
        let figure = Figure::ratio("x", &[10.0, 30.0, 80.0], &[20.0, 100.0, 50.0]);
        assert_eq!(figure.value, 0.5);
    }

    #[test]
    fn a_row_says_whether_the_target_was_held() {
        for (name, value, words) in [
            ("added_ms", 0.3, "held"),
            ("added_ms", 0.31, "missed"),
            ("throughput_ratio", 0.96, "held"),
            ("throughput_ratio", 0.94, "missed"),
            ("forward_ms_replica_b1", 30.0, "ms"),
        ] {
            let row = Figure { name: name.into(), value, unit: "ms" }.row();
            assert!(row.ends_with(words), "{row}");
        }
    }

    #[test]
    fn the_json_has_every_figure_by_name() {
        let figures = [Figure { name: "rss_mb".into(), value: 250.5, unit: "MB" }];
        let parsed: Value = serde_json::from_str(&json(&figures)).expect("it is JSON");
        assert_eq!(parsed["figures"]["rss_mb"], 250.5);
    }
}

//! Numbers with their units and targets, as a table and by name. Knows nothing of what was measured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A megabyte.
const MB: f64 = 1e6;

/// What a number should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// From the first to the second.
    Between(f64, f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Between(least, most) => (least..=most).contains(&value),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(formatter, "≤ {most}"),
            Self::AtLeast(least) => write!(formatter, "≥ {least}"),
            Self::Between(least, most) => write!(formatter, "{least} to {most}"),
        }
    }
}

#[derive(Debug)]
struct Row {
    name: String,
    what: String,
    value: f64,
    unit: &'static str,
    target: Option<Target>,
}

/// In the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
}

impl Figures {
    /// A number that has no target.
    pub(crate) fn add(&mut self, name: impl Into<String>, what: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row { name: name.into(), what: what.into(), value, unit, target: None });
    }

    /// A size in bytes, shown in MB.
    pub(crate) fn size(&mut self, name: impl Into<String>, what: impl Into<String>, bytes: u64) {
        self.add(name, what, megabytes(bytes), "MB");
    }

    /// What the number added last should be.
    pub(crate) fn target(&mut self, target: Target) {
        self.rows.last_mut().expect("a number was added").target = Some(target);
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        for Row { what, value, unit, target, .. } in &self.rows {
            let verdict = target.map(|target| {
                let met = if target.is_met(*value) { "met" } else { "MISSED" };
                format!("target {target}: {met}")
            });
            let line = format!("{what:<width$} {:>10} {unit:<8}{}", shown(*value), verdict.unwrap_or_default());
            println!("{}", line.trim_end());
        }
    }

    /// Flat names with their numbers.
    pub(crate) fn named(&self) -> BTreeMap<&str, f64> {
        self.rows.iter().map(|row| (&*row.name, row.value)).collect()
    }
}

/// Bytes in MB.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MB
}

/// Milliseconds at or below which lies the share `q`, 0 to 1, of `times`; 0 if there are none.
pub(crate) fn quantile_ms(mut times: Vec<Duration>, q: f64) -> f64 {
    times.sort_unstable();
    // The nearest rank: of 100, the 99th for 0.99.
    let rank = (times.len() as f64 * q).ceil().max(1.0) as usize;
    times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Three digits or all that stand before the point.
fn shown(value: f64) -> String {
    let decimals = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

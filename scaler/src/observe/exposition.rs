//! Prometheus's text format → samples of the dispatcher's metrics.

use super::snapshot::{Fault, Sample};
use prometheus_parse::{Scrape, Value};

/// The beginning of the names of a dispatcher's own metrics.
const PREFIX: &str = "dispatcher_";

/// The most lines that are read. A histogram has some thirty, and each replica that was ever in rotation has one.
const MOST_LINES: usize = 50_000;

/// The samples of all lines of a dispatcher's metrics. The parser gets one line at a time, since of several lines it skips
/// silently those that it does not understand, and no types, so that parts of histograms stay plain numbers.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Sample>, Fault> {
    let text = std::str::from_utf8(text).map_err(|_not_utf8| Fault::Text)?;
    let lines = || text.lines().filter(|line| line.starts_with(PREFIX));
    // A line costs microseconds, in which the only thread does nothing else.
    match lines().count() {
        0..=MOST_LINES => lines().map(sample).collect(),
        count => Err(Fault::Lines(count, MOST_LINES)),
    }
}

fn sample(line: &str) -> Result<Sample, Fault> {
    let found = Scrape::parse(std::iter::once(Ok(line.to_owned()))).ok().and_then(|mut scrape| scrape.samples.pop());
    match found {
        Some(prometheus_parse::Sample { metric, value: Value::Untyped(value), labels, .. }) => {
            let labels = labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            Ok(Sample { name: metric, labels, value })
        }
        _ => Err(Fault::Line(line.chars().take(120).collect())),
    }
}

//! PURE: Prometheus's text format → samples of the dispatcher's metrics.

use super::snapshot::{Fault, Sample};
use prometheus_parse::{Scrape, Value};

/// What the dispatcher's own metrics begin with.
const PREFIX: &str = "dispatcher_";

/// Lines of a dispatcher's metrics; a histogram has some thirty, and each replica that was ever in rotation has one.
const MOST_LINES: usize = 50_000;

/// Every line of a dispatcher's metric. The parser is given one line at a time, since of several it skips silently what
/// it does not understand, and without types, so that parts of histograms stay plain numbers.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Sample>, Fault> {
    let text = std::str::from_utf8(text).map_err(|_not_utf8| Fault::Text)?;
    let lines = || text.lines().filter(|line| line.starts_with(PREFIX));
    // Each costs microseconds, in which nothing else is done.
    match lines().count() {
        0..=MOST_LINES => lines().map(sample).collect(),
        lines => Err(Fault::Lines { lines, most: MOST_LINES }),
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

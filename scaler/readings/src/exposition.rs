//! Parses Prometheus's text format into samples of a dispatcher's metrics.

use super::snapshot::{FigureFault, MetricSample};
use prometheus_parse::{Scrape, Value};

/// The prefix of the names of a dispatcher's own metrics.
const PREFIX: &str = "dispatcher_";

/// The largest number of lines that are read. A histogram has some thirty lines, and each replica has one of its own.
const MAX_LINES: usize = 50_000;

/// The samples of all lines of a dispatcher's metrics. The parser gets one line at a time, since it silently skips
/// invalid lines among others. It gets no TYPE lines, so that the parts of histograms stay plain numbers.
pub(super) fn parse(text: &[u8]) -> Result<Vec<MetricSample>, FigureFault> {
    let text = std::str::from_utf8(text).map_err(|_not_utf8| FigureFault::Text)?;
    let lines = || text.lines().filter(|line| line.starts_with(PREFIX));
    // Parsing a line takes microseconds on the scaler's only thread, so a long answer would delay every decision.
    match lines().count() {
        0..=MAX_LINES => lines().map(sample).collect(),
        count => Err(FigureFault::Lines(count, MAX_LINES)),
    }
}

fn sample(line: &str) -> Result<MetricSample, FigureFault> {
    let found = Scrape::parse(std::iter::once(Ok(line.to_owned()))).ok().and_then(|mut scrape| scrape.samples.pop());
    match found {
        Some(prometheus_parse::Sample { metric, value: Value::Untyped(value), labels, .. }) => {
            let labels = labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            Ok(MetricSample { name: metric, labels, value })
        }
        _ => Err(FigureFault::Line(line.chars().take(120).collect())),
    }
}

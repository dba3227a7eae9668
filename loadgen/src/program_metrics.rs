//! The figures in the `/metrics` of a dispatcher or a scaler, and the figures of several programs together. Pure.

use crate::server_metrics::ServerMetrics;
use prometheus_parse::{Scrape, Value};
use service::wire::metric;
use std::collections::BTreeMap;

/// The prefixes of the names of all metrics of a dispatcher and of a scaler. A program is recognised by them.
const PREFIXES: [&str; 2] = ["dispatcher_", "scaler_"];

/// The metrics that are read. Other lines are not parsed, since an answer has a series for each replica.
const READ: [&str; 3] = [metric::QUEUE_LENGTH, metric::REPLICAS, metric::DESIRED_REPLICAS];

/// Largest number of lines that are parsed. A dispatcher has four, and a scaler has one for each target.
const MAX_LINES: usize = 10_000;

/// The figures of one program at one time. A figure that the program does not export is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProgramMetrics {
    /// Requests that wait in a dispatcher's queue.
    pub queue_length: Option<f64>,
    /// Replicas in a dispatcher's rotation.
    pub replicas: Option<f64>,
    /// Replicas that a scaler asks for, by the name of the target.
    pub desired_replicas: BTreeMap<String, f64>,
}

impl ProgramMetrics {
    /// The figures in `body`, which should be Prometheus's text format. `None` if it has no metric of a dispatcher or a
    /// scaler. A malformed line is skipped.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        if !text.lines().any(|line| PREFIXES.iter().any(|prefix| line.starts_with(prefix))) {
            return None;
        }
        let is_read = |line: &&str| READ.iter().any(|name| line.starts_with(name));
        let lines = text.lines().filter(is_read).take(MAX_LINES).map(|line| Ok(line.to_owned()));
        let mut metrics = Self::default();
        for sample in Scrape::parse(lines).ok()?.samples {
            // Without TYPE lines, every value is untyped.
            let Value::Untyped(value) = sample.value else { continue };
            if !value.is_finite() || value < 0.0 {
                continue;
            }
            match sample.metric.as_str() {
                metric::QUEUE_LENGTH => metrics.queue_length = Some(value),
                metric::REPLICAS if sample.labels.get("state") == Some("ready") => metrics.replicas = Some(value),
                metric::DESIRED_REPLICAS => {
                    let target = sample.labels.get("target").unwrap_or_default().to_owned();
                    metrics.desired_replicas.insert(target, value);
                }
                _ => {}
            }
        }
        Some(metrics)
    }
}

/// The replicas that scalers ask for, by the name of the target. If several scalers have a target, the highest number
/// counts: one of them leads, and the others repeat its number or lag behind.
pub fn desired_replicas<'a>(programs: impl IntoIterator<Item = &'a ProgramMetrics>) -> BTreeMap<String, f64> {
    let mut desired = BTreeMap::new();
    for (target, &count) in programs.into_iter().flat_map(|program| &program.desired_replicas) {
        let highest = desired.entry(target.clone()).or_insert(count);
        *highest = count.max(*highest);
    }
    desired
}

/// The figures of all programs together: the sum of the queues, the largest number of replicas in a rotation, since each
/// dispatcher has all of them, and the replicas that the scaler asks for. `scaler_target` is the target whose replicas
/// count. It may be `None` if the scalers have one target.
pub fn together(at_seconds: f64, programs: &[&ProgramMetrics], scaler_target: Option<&str>) -> ServerMetrics {
    let desired = desired_replicas(programs.iter().copied());
    ServerMetrics {
        at_seconds,
        queue_length: programs.iter().filter_map(|program| program.queue_length).reduce(|a, b| a + b),
        replicas: programs.iter().filter_map(|program| program.replicas).reduce(f64::max),
        desired_replicas: match scaler_target {
            Some(target) => desired.get(target).copied(),
            None if desired.len() == 1 => desired.values().next().copied(),
            None => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<ProgramMetrics> {
        ProgramMetrics::parse(text.as_bytes())
    }

    #[test]
    fn a_program_is_recognised_by_the_names_of_its_metrics() {
        let dispatcher = "# TYPE dispatcher_queue_length gauge\ndispatcher_queue_length 4\n\
            # TYPE dispatcher_replicas gauge\n\
            dispatcher_replicas{state=\"ejected\"} 1\ndispatcher_replicas{state=\"ready\"} 3\n\
            dispatcher_replicas_of_others 7\n";
        let found = parse(dispatcher).expect("a dispatcher");
        assert_eq!((found.queue_length, found.replicas), (Some(4.0), Some(3.0)));
        let scaler = parse("scaler_build_info{version=\"1\"} 1\n").expect("a scaler before its first decision");
        assert_eq!(scaler, ProgramMetrics::default());
        for other in ["", "<html>dispatcher_queue_length 4</html>", "inference_in_progress 1\n", "\u{0}\u{1}"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn malformed_lines_and_values_without_meaning_are_skipped() {
        let text = "dispatcher_queue_length NaN\ndispatcher_queue_length{\ndispatcher_replicas{state=\"ready\"} x\n\
            dispatcher_replicas{state=\"ready\"} +Inf\ndispatcher_replicas{state=\"ready\"} -5\n\
            scaler_desired_replicas{target=\"a\"} 2\n";
        let found = parse(text).expect("the names are known");
        assert_eq!((found.queue_length, found.replicas), (None, None));
        assert_eq!(found.desired_replicas, [("a".to_owned(), 2.0)].into());
        assert_eq!(ProgramMetrics::parse(b"dispatcher_queue_length 3 \xff\n").map(|found| found.replicas), Some(None));
    }

    #[test]
    fn queues_are_added_and_replicas_in_rotation_are_not() {
        let dispatcher = |queue_length, replicas| ProgramMetrics {
            queue_length: Some(queue_length),
            replicas: Some(replicas),
            ..ProgramMetrics::default()
        };
        let (one, two) = (dispatcher(4.0, 3.0), dispatcher(5.0, 2.0));
        let found = together(1.5, &[&one, &two], None);
        assert_eq!((found.at_seconds, found.queue_length, found.replicas), (1.5, Some(9.0), Some(3.0)));
        let nothing = together(0.0, &[], None);
        assert_eq!((nothing.queue_length, nothing.replicas, nothing.desired_replicas), (None, None, None));
    }

    #[test]
    fn only_the_replicas_of_the_named_target_count() {
        let scaler = |targets: &[(&str, f64)]| ProgramMetrics {
            desired_replicas: targets.iter().map(|&(name, count)| (name.to_owned(), count)).collect(),
            ..ProgramMetrics::default()
        };
        let count = |scalers: &[&ProgramMetrics], target| together(0.0, scalers, target).desired_replicas;
        let (leader, follower) = (scaler(&[("a", 4.0), ("b", 9.0)]), scaler(&[("a", 3.0), ("b", 9.0)]));
        assert_eq!(count(&[&follower, &leader], Some("a")), Some(4.0));
        assert_eq!(count(&[&leader], Some("c")), None);
        // Without a name, no target is guessed among several, also if each is a scaler of its own.
        assert_eq!(count(&[&leader], None), None);
        assert_eq!(count(&[&scaler(&[("a", 1.0)]), &scaler(&[("b", 1.0)])], None), None);
        assert_eq!(count(&[&scaler(&[("a", 1.0)])], None), Some(1.0));
    }
}

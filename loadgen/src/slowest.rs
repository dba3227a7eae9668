//! The slowest requests of a run, and where their time went. Pure.

use crate::request_id::RequestIds;
use crate::sample::Sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of requests that are listed.
const COUNT: usize = 10;

/// Longest text of a request of a worker, in characters.
const MAX_TEXT_CHARS: usize = 1000;

/// The slowest requests so far, the slowest first.
#[derive(Debug, Clone, Default)]
pub struct Slowest(Vec<Sample>);

/// One of the slowest requests of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowRequest {
    /// The id of the request, which it carried in the header `x-request-id`.
    pub request_id: String,
    /// The name of the image's file, or the number of the generated image.
    pub image: String,
    /// The scheduled send time, in seconds since the start of the run.
    pub at_seconds: f64,
    /// Time from the scheduled send time to the whole answer or to the failure, in milliseconds.
    pub latency_ms: f64,
    /// The HTTP status; absent without an answer.
    pub status: Option<u16>,
    /// The error code; absent if the request was answered.
    pub code: Option<String>,
    /// The name of the replica that answered; absent if the answer does not have it.
    pub replica: Option<String>,
    /// Where the time went.
    pub parts_ms: LatencyParts,
}

/// The parts of a latency, in milliseconds. The server's parts are absent if the answer does not have them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyParts {
    /// Time from the scheduled to the actual send time. It is caused by loadgen.
    pub send_delay: f64,
    /// Time in the dispatcher's queue.
    pub queue: Option<f64>,
    /// Time of decoding.
    pub decode: Option<f64>,
    /// Time that the decoded image waited for its forward pass.
    pub batch: Option<f64>,
    /// Time of the forward pass.
    pub inference: Option<f64>,
    /// The rest: the connection, the network, and the work of the dispatcher and of the replica around these parts.
    pub rest: f64,
}

impl Slowest {
    /// Adds a request, if it is one of the slowest so far.
    pub fn record(&mut self, sample: &Sample) {
        let rank = self.0.partition_point(|slow| slow.latency >= sample.latency);
        if rank < COUNT {
            self.0.truncate(COUNT - 1);
            self.0.insert(rank, sample.clone());
        }
    }

    /// The slowest requests, the slowest first. `image_name` gives the name of the image with an index.
    pub fn requests<'a>(&self, ids: &RequestIds, image_name: impl Fn(usize) -> &'a str) -> Vec<SlowRequest> {
        let request = |sample: &Sample| SlowRequest {
            request_id: ids.text(sample.index),
            image: image_name(sample.image).to_owned(),
            at_seconds: sample.scheduled.as_secs_f64(),
            latency_ms: sample.latency.as_secs_f64() * 1e3,
            status: sample.status,
            code: sample.outcome.code().map(str::to_owned),
            replica: sample.replica.as_deref().map(str::to_owned),
            parts_ms: LatencyParts::new(sample),
        };
        self.0.iter().map(request).collect()
    }
}

/// The slowest of the slowest requests of all parts of a load, the slowest first. Each part may have any content, since
/// another process sent it: texts are cut and freed of control characters, which could send commands to a terminal.
pub fn merge(parts: impl IntoIterator<Item = Vec<SlowRequest>>) -> Vec<SlowRequest> {
    let mut all: Vec<SlowRequest> = parts.into_iter().flat_map(|part| part.into_iter().take(COUNT)).collect();
    all.sort_by(|a, b| b.latency_ms.total_cmp(&a.latency_ms));
    all.truncate(COUNT);
    for request in &mut all {
        let texts = [&mut request.request_id, &mut request.image].into_iter();
        for text in texts.chain(&mut request.code).chain(&mut request.replica) {
            let replace =
                |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
            *text = text.chars().take(MAX_TEXT_CHARS).map(replace).collect();
        }
    }
    all
}

impl LatencyParts {
    fn new(sample: &Sample) -> Self {
        let send_delay = sample.send_delay.as_secs_f64() * 1e3;
        let timing = sample.timing;
        let server = timing.map_or(0.0, |timing| timing.queue + timing.decode + timing.batch + timing.inference);
        Self {
            send_delay,
            queue: timing.map(|timing| timing.queue),
            decode: timing.map(|timing| timing.decode),
            batch: timing.map(|timing| timing.batch),
            inference: timing.map(|timing| timing.inference),
            // A server's clock may run faster than this one, and its parts may be wrong.
            rest: (sample.latency.as_secs_f64() * 1e3 - send_delay - server).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, failed, sample};
    use service::wire::Timing;
    use std::time::Duration;

    #[test]
    fn the_slowest_requests_of_all_parts_are_merged() {
        let part = |factor: u64| {
            let mut slowest = Slowest::default();
            (1..=20).for_each(|latency| slowest.record(&sample(0, factor * latency, failed("a"))));
            slowest.requests(&RequestIds::numbered(1), |_| "x\u{1b}[2J.jpg")
        };
        let merged = merge([part(2), part(3)]);
        let latencies: Vec<f64> = merged.iter().map(|request| request.latency_ms.round()).collect();
        assert_eq!(latencies, [60.0, 57.0, 54.0, 51.0, 48.0, 45.0, 42.0, 40.0, 39.0, 38.0]);
        assert_eq!(merged[0].image, "x\u{fffd}[2J.jpg");
    }

    #[test]
    fn the_ten_slowest_requests_are_kept_with_the_parts_of_their_latency() {
        let mut slowest = Slowest::default();
        for index in 0..100 {
            let latency = (index * 37) % 100;
            slowest.record(&Sample { index: index as usize, ..sample(index, latency, ANSWERED) });
        }
        let timing = Timing { queue: 100.0, decode: 20.0, batch: 5.0, inference: 50.0, total: 180.0 };
        let send_delay = Duration::from_millis(3);
        let timed = Sample { timing: Some(timing), send_delay, image: 1, ..sample(5, 200, ANSWERED) };
        slowest.record(&Sample { replica: Some("r".into()), ..timed });
        slowest.record(&Sample { status: Some(503), ..sample(6, 150, failed("queue_full")) });
        let found = slowest.requests(&RequestIds::numbered(1), |image| ["a.jpg", "b.jpg"][image]);
        let latencies: Vec<f64> = found.iter().map(|request| request.latency_ms.round()).collect();
        assert_eq!(latencies, [200.0, 150.0, 99.0, 98.0, 97.0, 96.0, 95.0, 94.0, 93.0, 92.0]);
        assert_eq!((found[0].image.as_str(), found[0].replica.as_deref()), ("b.jpg", Some("r")));
        assert_eq!((found[0].parts_ms.queue, found[0].parts_ms.rest.round()), (Some(100.0), 22.0));
        assert_eq!((found[1].code.as_deref(), found[1].status), (Some("queue_full"), Some(503)));
        assert!(found[2].request_id.starts_with("00000001-"));
    }
}

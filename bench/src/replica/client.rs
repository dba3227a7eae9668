//! Clients that post images over one kept connection each, one request at a time.

use anyhow::{Context, Result, ensure};
use harness::http;
use harness::stack::Service;
use serde_json::Value;
use std::time::{Duration, Instant};

/// One connection to a server.
pub(super) struct ImageClient {
    agent: ureq::Agent,
    predict: String,
    livez: String,
}

/// An answer of status 200.
pub(super) struct TimedAnswer {
    /// Time from before sending until the whole answer was read.
    pub(super) latency: Duration,
    /// The answer's JSON.
    pub(super) body: Value,
}

impl ImageClient {
    /// A client that connects with its first request.
    pub(super) fn new(server: &Service) -> Self {
        let [predict, livez] = ["predict", "livez"].map(|path| format!("http://{}/{path}", server.address));
        Self { agent: http::agent(), predict, livez }
    }

    /// The time of `GET /livez`, for which the server does nothing.
    ///
    /// # Errors
    /// When the status is not 200.
    pub(super) fn get_livez(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut answer = self.agent.get(&self.livez).call().with_context(|| format!("get {}", self.livez))?;
        answer.body_mut().read_to_string()?;
        let latency = start.elapsed();
        ensure!(answer.status() == 200, "{} answered {}", self.livez, answer.status());
        Ok(latency)
    }

    /// Posts an image and reads the answer.
    ///
    /// # Errors
    /// When the status is not 200.
    pub(super) fn post(&self, image: &[u8]) -> Result<TimedAnswer> {
        let start = Instant::now();
        let post = self.agent.post(&self.predict).content_type("application/octet-stream").send(image);
        let mut answer = post.with_context(|| format!("post to {}", self.predict))?;
        let text = answer.body_mut().read_to_string()?;
        let latency = start.elapsed();
        ensure!(answer.status() == 200, "{} answered {}: {text}", self.predict, answer.status());
        let body = serde_json::from_str(&text).with_context(|| format!("read the answer {text:?}"))?;
        Ok(TimedAnswer { latency, body })
    }
}

/// Answers per second to `connections` clients that all post the same image, `requests` between them.
///
/// # Errors
/// When the status of an answer is not 200.
pub(super) fn answers_per_second(server: &Service, image: &[u8], connections: usize, requests: usize) -> Result<f64> {
    let each = requests.div_ceil(connections);
    let times = std::thread::scope(|scope| {
        let client = || -> Result<Vec<Instant>> {
            let client = ImageClient::new(server);
            (0..each).map(|_| client.post(image).map(|_| Instant::now())).collect()
        };
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(client)).collect();
        let times: Result<Vec<_>> =
            clients.into_iter().map(|client| client.join().expect("no client panics")).collect();
        times.map(|times| times.concat())
    })?;
    per_second(times, connections).context("too few requests for a rate")
}

/// The rate from the last of the first `connections` answers until `connections` answers before the end. At the start
/// and at the end the server has fewer requests at once. Answers that come in batches of up to `connections` count as
/// whole batches.
fn per_second(mut times: Vec<Instant>, connections: usize) -> Option<f64> {
    times.sort_unstable();
    let last = times.len().checked_sub(1 + connections)?;
    let first = connections.checked_sub(1)?;
    let took = times.get(last)?.checked_duration_since(*times.get(first)?)?;
    (last > first).then(|| (last - first) as f64 / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_middle() {
        let start = Instant::now();
        let rate = |milliseconds: &[u64], connections| {
            let times = milliseconds.iter().map(|&after| start + Duration::from_millis(after)).collect();
            per_second(times, connections).map(f64::round)
        };
        assert_eq!(rate(&[100, 200, 300, 400, 500, 600], 1), Some(10.0));
        // Batches of two, with a slow start and a slow end.
        assert_eq!(rate(&[500, 500, 600, 600, 700, 700, 800, 800, 2000, 2000], 2), Some(20.0));
        assert_eq!(rate(&[100], 1), None);
        assert_eq!(rate(&[], 2), None);
    }
}

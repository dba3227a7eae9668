//! Clients that post images. Each has one connection, which it keeps, and sends one request at a time.

use anyhow::{Context, Result, ensure};
use harness::http;
use harness::stack::ServiceProcess;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A client with one connection to a server.
pub(super) struct ImageClient {
    agent: ureq::Agent,
    predict: String,
    livez: String,
}

/// An answer with status 200.
pub(super) struct TimedAnswer {
    /// The time from the sending of the request until the whole answer was read.
    pub(super) latency: Duration,
    /// The body of the answer, as JSON.
    pub(super) body: Value,
}

impl ImageClient {
    /// A client of `server`. It connects when it sends its first request.
    pub(super) fn new(server: &ServiceProcess) -> Self {
        let [predict, livez] = ["predict", "livez"].map(|path| format!("http://{}/{path}", server.address));
        Self { agent: http::agent(), predict, livez }
    }

    /// Sends `GET /livez`, for which the server does nothing. Returns the latency.
    ///
    /// # Errors
    /// If the request is not answered with status 200.
    pub(super) fn get_livez(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut answer = self.agent.get(&self.livez).call().with_context(|| format!("get {}", self.livez))?;
        answer.body_mut().read_to_string().with_context(|| format!("read the answer of {}", self.livez))?;
        let latency = start.elapsed();
        ensure!(answer.status() == 200, "{} answered {}", self.livez, answer.status());
        Ok(latency)
    }

    /// Posts an image and reads the answer.
    ///
    /// # Errors
    /// If the request is not answered with status 200.
    pub(super) fn post(&self, image: &[u8]) -> Result<TimedAnswer> {
        let start = Instant::now();
        let post = self.agent.post(&self.predict).content_type("application/octet-stream").send(image);
        let mut answer = post.with_context(|| format!("post to {}", self.predict))?;
        let text = answer.body_mut().read_to_string();
        let text = text.with_context(|| format!("read the answer of {}", self.predict))?;
        let latency = start.elapsed();
        ensure!(answer.status() == 200, "{} answered {}: {text}", self.predict, answer.status());
        let body = serde_json::from_str(&text);
        let body = body.with_context(|| format!("the answer of {} is not JSON: {text:?}", self.predict))?;
        Ok(TimedAnswer { latency, body })
    }
}

/// Posts the same image on `connections` connections at once, `requests` times altogether. Returns the answers per
/// second.
///
/// # Errors
/// If a request is not answered with status 200, or there are too few requests to measure a rate.
pub(super) fn answers_per_second(
    server: &ServiceProcess,
    image: &[u8],
    connections: usize,
    requests: usize,
) -> Result<f64> {
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
    let rate = per_second(times, connections);
    rate.with_context(|| format!("{requests} requests on {connections} connections are too few to measure a rate"))
}

/// The rate of answers without the first and the last `connections` answers, during which the server has fewer requests
/// at once. `times` are the times of all answers. If the server answers in batches of up to `connections` images, the
/// rate is that of whole batches. `None` if there are too few answers.
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
    fn the_first_and_the_last_answers_do_not_count_for_the_rate() {
        let start = Instant::now();
        let rate = |milliseconds: &[u64], connections| {
            let times = milliseconds.iter().map(|&after| start + Duration::from_millis(after)).collect();
            per_second(times, connections).map(f64::round)
        };
        assert_eq!(rate(&[100, 200, 300, 400, 500, 600], 1), Some(10.0));
        // The answers come in batches of two. The first and the last batch are slow.
        assert_eq!(rate(&[500, 500, 600, 600, 700, 700, 800, 800, 2000, 2000], 2), Some(20.0));
        assert_eq!(rate(&[100], 1), None);
        assert_eq!(rate(&[], 2), None);
    }
}

//! Clients that post pictures over one kept connection each, one request at a time.

use crate::stack::Service;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// One connection.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    idle: String,
}

/// An answer of status 200.
pub struct Answer {
    /// From before sending until everything was read.
    pub latency: Duration,
    /// What it says.
    pub body: Value,
}

impl Client {
    /// Connects with the first request.
    pub fn of(server: &Service) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).no_delay(true).build().into();
        let [url, idle] = ["predict", "livez"].map(|path| format!("http://{}/{path}", server.address));
        Self { agent, url, idle }
    }

    /// How long an answer takes for which the server does nothing.
    ///
    /// # Errors
    /// When it is no success.
    pub fn exchange(&self) -> Result<Duration> {
        let start = Instant::now();
        let mut answer = self.agent.get(&self.idle).call().with_context(|| format!("get {}", self.idle))?;
        answer.body_mut().read_to_string()?;
        let latency = start.elapsed();
        ensure!(answer.status() == 200, "{} answered {}", self.idle, answer.status());
        Ok(latency)
    }

    /// Posts a picture and reads the answer.
    ///
    /// # Errors
    /// When the answer is no success.
    pub fn post(&self, picture: &[u8]) -> Result<Answer> {
        let start = Instant::now();
        let post = self.agent.post(&self.url).content_type("application/octet-stream").send(picture);
        let mut answer = post.with_context(|| format!("post to {}", self.url))?;
        let text = answer.body_mut().read_to_string()?;
        let latency = start.elapsed();
        ensure!(answer.status() == 200, "{} answered {}: {text}", self.url, answer.status());
        let body = serde_json::from_str(&text).with_context(|| format!("read the answer {text:?}"))?;
        Ok(Answer { latency, body })
    }
}

/// Answers per second of `connections` clients that all post the same picture, `requests` between them.
///
/// # Errors
/// When an answer is no success.
pub fn rate(server: &Service, picture: &[u8], connections: usize, requests: usize) -> Result<f64> {
    let each = requests.div_ceil(connections);
    let stamps = std::thread::scope(|scope| {
        let client = || -> Result<Vec<Instant>> {
            let client = Client::of(server);
            (0..each).map(|_| client.post(picture).map(|_| Instant::now())).collect()
        };
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(client)).collect();
        let stamps: Result<Vec<_>> = clients.into_iter().map(|client| client.join().expect("no panic")).collect();
        stamps.map(|stamps| stamps.concat())
    })?;
    per_second(stamps, connections).context("too few requests to tell")
}

/// From the last of the first `connections` answers on, until `connections` before the last: what comes first and last
/// meets a server with less to do. Answers that come in batches of up to `connections` count as whole ones.
fn per_second(mut stamps: Vec<Instant>, connections: usize) -> Option<f64> {
    stamps.sort_unstable();
    let last = stamps.len().checked_sub(1 + connections)?;
    let first = connections.checked_sub(1)?;
    let took = stamps.get(last)?.checked_duration_since(*stamps.get(first)?)?;
    (last > first).then(|| (last - first) as f64 / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_middle() {
        let start = Instant::now();
        let rate = |milliseconds: &[u64], connections| {
            let stamps = milliseconds.iter().map(|&after| start + Duration::from_millis(after)).collect();
            per_second(stamps, connections).map(f64::round)
        };
        assert_eq!(rate(&[100, 200, 300, 400, 500, 600], 1), Some(10.0));
        // In twos, as a batch is answered, after a slow start and with a slow end.
        assert_eq!(rate(&[500, 500, 600, 600, 700, 700, 800, 800, 2000, 2000], 2), Some(20.0));
        assert_eq!(rate(&[100], 1), None);
        assert_eq!(rate(&[], 2), None);
    }
}

//! What HTTP, queue and threads add to decoding and inference, at one connection.

use super::clients::{Answer, Client};
use super::figure::Figure;
use super::{Bench, subject};
use anyhow::{Context, Result};
use std::fs;

/// Requests for each round.
const REQUESTS: u32 = 20;

/// Milliseconds: the median over all requests of the client's latency less what the answer says of decoding and inference.
///
/// # Errors
/// When the replica does not start, or fails to answer.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let picture = &bench.pictures().small;
    let picture = fs::read(picture).with_context(|| format!("read {}", picture.display()))?;
    let replica = subject::start(bench.folder)?;
    let client = Client::of(&replica);
    for _ in 0..REQUESTS {
        client.post(&picture)?;
    }
    let mut added = Vec::new();
    let progress = bench.progress(bench.rounds * REQUESTS, "added");
    for _ in 0..bench.rounds * REQUESTS {
        added.push(added_ms(&client.post(&picture)?)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(vec![Figure::median("added_ms", added, "ms")])
}

fn added_ms(answer: &Answer) -> Result<f64> {
    let stage = |name: &str| answer.body["timing_ms"][name].as_f64().with_context(|| format!("no timing_ms.{name}"));
    Ok(answer.latency.as_secs_f64() * 1e3 - stage("decode")? - stage("inference")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn decoding_and_inference_are_not_added() {
        let body = serde_json::json!({"timing_ms": {"decode": 1.5, "batch": 0.25, "inference": 30.0}});
        let answer = Answer { latency: Duration::from_millis(32), body };
        assert_eq!(added_ms(&answer).expect("both are there"), 0.5);
        let answer = Answer { latency: Duration::from_millis(32), body: serde_json::json!({}) };
        assert!(added_ms(&answer).is_err());
    }
}

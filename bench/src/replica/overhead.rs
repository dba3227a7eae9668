//! What HTTP, queue and threads add to decoding and inference, at one connection.

use super::clients::{Answer, Client};
use super::figure::Figure;
use super::{Bench, subject};
use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// Requests for each round.
const REQUESTS: u32 = 20;

/// As long as a picture takes: meanwhile whatever takes part goes to sleep.
const PAUSE: Duration = Duration::from_millis(25);

/// Milliseconds, each the median over all requests: the client's latency less what the answer says of decoding and inference;
/// the same by the replica's clock; and an answer for which the replica does nothing, which is what the machine takes for
/// waking both sides.
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
    let (mut added, mut within, mut exchange) = (Vec::new(), Vec::new(), Vec::new());
    let progress = bench.progress(bench.rounds * REQUESTS, "added");
    for _ in 0..bench.rounds * REQUESTS {
        let answer = client.post(&picture)?;
        added.push(added_ms(&answer)?);
        within.push(within_ms(&answer)?);
        std::thread::sleep(PAUSE);
        exchange.push(client.exchange()?.as_secs_f64() * 1e3);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(vec![
        Figure::median("added_ms", added, "ms"),
        Figure::median("added_within_ms", within, "ms"),
        Figure::median("exchange_ms", exchange, "ms"),
    ])
}

fn added_ms(answer: &Answer) -> Result<f64> {
    Ok(answer.latency.as_secs_f64() * 1e3 - stage_ms(answer, "decode")? - stage_ms(answer, "inference")?)
}

fn within_ms(answer: &Answer) -> Result<f64> {
    Ok(stage_ms(answer, "total")? - stage_ms(answer, "decode")? - stage_ms(answer, "inference")?)
}

fn stage_ms(answer: &Answer, stage: &str) -> Result<f64> {
    answer.body["timing_ms"][stage].as_f64().with_context(|| format!("no timing_ms.{stage}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_and_inference_are_not_added() {
        let body = serde_json::json!({"timing_ms": {"decode": 1.5, "batch": 0.25, "inference": 30.0, "total": 31.75}});
        let answer = Answer { latency: Duration::from_millis(32), body };
        assert_eq!(added_ms(&answer).expect("both are there"), 0.5);
        assert_eq!(within_ms(&answer).expect("all are there"), 0.25);
        let answer = Answer { latency: Duration::from_millis(32), body: serde_json::json!({}) };
        assert!(added_ms(&answer).is_err());
    }
}

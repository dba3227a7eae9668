//! The time that HTTP, queue and threads add to decoding and inference, at one connection.

use super::client::{ImageClient, TimedAnswer};
use super::{RunContext, server};
use crate::figure::Figure;
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// Requests in each round.
const REQUESTS: u32 = 20;

/// The pause before `GET /livez`. It is as long as classifying an image, so that client and replica sleep as they do
/// while an image is classified.
const PAUSE: Duration = Duration::from_millis(25);

/// Three medians over all requests, in milliseconds:
///
/// - `added_ms`: the latency that the client measures, minus decoding and inference;
/// - `added_within_ms`: the time that the replica measures, minus decoding and inference;
/// - `exchange_ms`: the latency of `GET /livez`, which needs no decoding and no inference. It is what the machine takes
///   to wake the client and the replica.
///
/// # Errors
/// If the replica does not start, or does not answer with status 200.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let image = &run.images().small;
    let image = fs::read(image).with_context(|| format!("read {}", image.display()))?;
    let replica = server::start(run.folder)?;
    let client = ImageClient::new(&replica);
    for _ in 0..REQUESTS {
        client.post(&image)?;
    }
    let (mut added, mut within, mut exchange) = (Vec::new(), Vec::new(), Vec::new());
    let progress = progress::bar((run.rounds * REQUESTS).into(), "added");
    for _ in 0..run.rounds * REQUESTS {
        let answer = client.post(&image)?;
        added.push(added_ms(&answer)?);
        within.push(within_ms(&answer)?);
        std::thread::sleep(PAUSE);
        exchange.push(client.get_livez()?.as_secs_f64() * 1e3);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(vec![
        Figure::median("added_ms", added, "ms"),
        Figure::median("added_within_ms", within, "ms"),
        Figure::median("exchange_ms", exchange, "ms"),
    ])
}

fn added_ms(answer: &TimedAnswer) -> Result<f64> {
    Ok(answer.latency.as_secs_f64() * 1e3 - stage_ms(answer, "decode")? - stage_ms(answer, "inference")?)
}

fn within_ms(answer: &TimedAnswer) -> Result<f64> {
    Ok(stage_ms(answer, "total")? - stage_ms(answer, "decode")? - stage_ms(answer, "inference")?)
}

fn stage_ms(answer: &TimedAnswer, stage: &str) -> Result<f64> {
    answer.body["timing_ms"][stage].as_f64().with_context(|| format!("the answer has no timing_ms.{stage}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_time_excludes_decoding_and_inference() {
        let body = serde_json::json!({"timing_ms": {"decode": 1.5, "batch": 0.25, "inference": 30.0, "total": 31.75}});
        let answer = TimedAnswer { latency: Duration::from_millis(32), body };
        assert_eq!(added_ms(&answer).expect("timing_ms has decode and inference"), 0.5);
        assert_eq!(within_ms(&answer).expect("timing_ms has decode, inference and total"), 0.25);
        let answer = TimedAnswer { latency: Duration::from_millis(32), body: serde_json::json!({}) };
        assert!(added_ms(&answer).is_err());
    }
}

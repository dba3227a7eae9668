//! The time that HTTP, queue and threads add to decoding and inference, at one connection.

use super::client::{ImageClient, TimedAnswer};
use super::{RunContext, server};
use crate::figure::Figure;
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// Requests of each round.
const REQUESTS: u32 = 20;

/// The pause before an empty exchange. It is as long as an image takes, so that both sides go to sleep as they do while
/// an image is classified.
const PAUSE: Duration = Duration::from_millis(25);

/// Milliseconds, each the median over all requests: the client's latency without decoding and inference; the same by
/// the replica's clock; and an exchange for which the replica does nothing, which is the machine's time for waking both
/// sides.
///
/// # Errors
/// When the replica does not start, or fails to answer.
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
    fn decoding_and_inference_are_not_added() {
        let body = serde_json::json!({"timing_ms": {"decode": 1.5, "batch": 0.25, "inference": 30.0, "total": 31.75}});
        let answer = TimedAnswer { latency: Duration::from_millis(32), body };
        assert_eq!(added_ms(&answer).expect("both stages are there"), 0.5);
        assert_eq!(within_ms(&answer).expect("all stages are there"), 0.25);
        let answer = TimedAnswer { latency: Duration::from_millis(32), body: serde_json::json!({}) };
        assert!(added_ms(&answer).is_err());
    }
}

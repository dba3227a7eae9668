//! Sends pictures on schedule, and never waits for an answer before the next; or, to measure capacity, keeps a fixed
//! number on their way.

use crate::images::Picture;
use crate::sample::{Outcome, Sample};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use service::wire::{Answer, ErrorBody, header};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Answers are a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// For a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where and how to send.
#[derive(Debug, Clone)]
pub struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    /// For one request, from its scheduled send time.
    timeout: Duration,
    /// Sent as `x-request-timeout-ms`, if any.
    budget: Option<Duration>,
}

impl Sender {
    /// Posts to `uri`; gives up on an answer after `timeout`.
    pub fn new(uri: Uri, timeout: Duration, budget: Option<Duration>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { client, uri, timeout, budget }
    }

    /// Sends request `i` at `schedule[i]` after now, pictures in turn, and reports each as it ends to `samples`.
    /// Returns when all have ended.
    pub async fn open_loop(
        &self,
        pictures: &[Picture],
        schedule: &[Duration],
        samples: &mpsc::UnboundedSender<Sample>,
    ) {
        let start = Instant::now();
        let mut sending = JoinSet::new();
        for (index, &scheduled) in schedule.iter().enumerate() {
            tokio::time::sleep_until((start + scheduled).into()).await;
            let (sender, samples) = (self.clone(), samples.clone());
            let picture = pictures[index % pictures.len()].clone();
            sending.spawn(async move {
                // The receiver lives as long as the run.
                let _ended = samples.send(sender.send(&picture, start, scheduled).await);
            });
            // Whatever has ended is let go of, so that a long run holds only what is on its way.
            while sending.try_join_next().is_some() {}
        }
        while sending.join_next().await.is_some() {}
    }

    /// Keeps `concurrency` requests on their way for `duration`, each sent as soon as one before it has ended.
    pub async fn closed_loop(
        &self,
        pictures: &Arc<[Picture]>,
        concurrency: usize,
        duration: Duration,
        samples: &mpsc::UnboundedSender<Sample>,
    ) {
        let start = Instant::now();
        let mut clients = JoinSet::new();
        for client in 0..concurrency {
            let (sender, pictures, samples) = (self.clone(), pictures.clone(), samples.clone());
            clients.spawn(async move {
                let turn = pictures.iter().cycle().skip(client).step_by(concurrency.max(1));
                for picture in turn {
                    let scheduled = start.elapsed();
                    if scheduled >= duration {
                        break;
                    }
                    let _ended = samples.send(sender.send(picture, start, scheduled).await);
                }
            });
        }
        while clients.join_next().await.is_some() {}
    }

    async fn send(&self, picture: &Picture, start: Instant, scheduled: Duration) -> Sample {
        let send_delay = start.elapsed().saturating_sub(scheduled);
        let left = self.timeout.saturating_sub(send_delay);
        let outcome = match tokio::time::timeout(left, self.exchange(picture)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => failed("client_timeout"),
        };
        Sample { scheduled, send_delay, latency: start.elapsed().saturating_sub(scheduled), outcome }
    }

    async fn exchange(&self, picture: &Picture) -> Outcome {
        let mut request = Request::post(self.uri.clone()).header(CONTENT_TYPE, picture.content_type);
        if let Some(budget) = self.budget {
            request = request.header(header::TIMEOUT_MS, budget.as_millis().to_string());
        }
        let request = request.body(Full::new(picture.file.clone())).expect("checked parts make a request");
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return failed("connect"),
            Err(_) => return failed("reset"),
        };
        let status = response.status();
        let Ok(body) = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await else {
            return failed("short_answer");
        };
        judge(status, &body.to_bytes(), picture.label.as_deref())
    }
}

fn judge(status: StatusCode, body: &[u8], label: Option<&str>) -> Outcome {
    if status != StatusCode::OK {
        return match serde_json::from_slice::<ErrorBody>(body) {
            Ok(error) => failed(&error.code),
            Err(_) => failed(&format!("http_{}", status.as_u16())),
        };
    }
    match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => Outcome::Answered { right: label.map(|label| answer.prediction.label == label) },
        Err(_) => failed("invalid_answer"),
    }
}

fn failed(code: &str) -> Outcome {
    Outcome::Failed { code: code.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_status_body_and_label() {
        let answer = br#"{"success":true,"prediction":{"class_index":0,"label":"plain circle","confidence":0.9},
            "predictions":[],"model":"m","replica":"r","timing_ms":{"queue":0,"decode":0,"batch":0,"inference":0,"total":0}}"#;
        let error = br#"{"success":false,"code":"queue_full","error":"full","request_id":"x"}"#;
        let rows = [
            (200, &answer[..], Some("plain circle"), Outcome::Answered { right: Some(true) }),
            (200, answer, Some("plain star"), Outcome::Answered { right: Some(false) }),
            (200, answer, None, Outcome::Answered { right: None }),
            (200, b"<html>", None, failed("invalid_answer")),
            (503, error, None, failed("queue_full")),
            (502, b"Bad Gateway", None, failed("http_502")),
        ];
        for (status, body, label, expected) in rows {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(judge(status, body, label), expected);
        }
    }
}

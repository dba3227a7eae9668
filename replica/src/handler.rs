//! HTTP ↔ pipeline. Checks a request, takes a slot, and turns the model's numbers into the contract's answer.

use crate::form;
use crate::pipeline::{Classified, Picture, Pipeline};
use crate::softmax::softmax;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use metrics::{gauge, histogram};
use service::admin::Admin;
use service::body;
use service::headers::text;
use service::options::Intake;
use service::respond::{self, Reply};
use service::trace::Trace;
use service::wire::{self, Answer, Code, Fault, Prediction, Timing, header};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What every request is answered from.
pub struct Handler {
    /// Classifies.
    pub pipeline: Pipeline,
    /// As many as the advertised capacity.
    pub slots: Arc<Semaphore>,
    /// The capacity, as a header.
    pub capacity: HeaderValue,
    /// Answers the admin paths.
    pub admin: Admin,
    /// What one body may cost.
    pub body: body::Limits,
    /// Longest time for a request.
    pub intake: Intake,
    /// The model's name; there once it is loaded.
    pub model: Arc<OnceLock<String>>,
    /// Class names; there once the model is loaded.
    pub labels: Arc<OnceLock<Vec<String>>>,
    /// This replica's name.
    pub name: String,
}

impl Handler {
    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let path = request.uri().path();
        if let Some(reply) = self.admin.answer(request.method(), path) {
            return reply;
        }
        match path {
            "/predict" | "/infer" if request.method() == Method::POST => self.predict(request).await,
            "/predict" | "/infer" => respond::method_not_allowed("POST", ""),
            _ => respond::not_found(path, "pictures go to POST /predict", ""),
        }
    }

    async fn predict(&self, request: Request<Incoming>) -> Reply {
        let received = Instant::now();
        let trace = Trace::of(request.headers());
        let mut reply = match self.answer(request, received).await {
            Ok(answer) => respond::json(StatusCode::OK, &answer),
            Err(fault) => respond::fault(&fault, &trace.request_id()),
        };
        reply.headers_mut().insert(header::CAPACITY, self.capacity.clone());
        trace.write(reply.headers_mut());
        reply
    }

    async fn answer(&self, request: Request<Incoming>, received: Instant) -> Result<Answer, Fault> {
        // A request that finds no slot waits in the dispatcher, not here.
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| {
            let message = "this replica holds as many requests as it advertises; send to another";
            Fault::new(Code::Busy, message).retry_after(Duration::from_secs(1))
        })?;
        let _progress = Progress::start(received);
        let (head, body) = request.into_parts();
        let top_k = wire::top_k(head.uri.query())?;
        let deadline = received + self.intake.budget(wire::timeout(text(&head.headers, &header::TIMEOUT_MS)?)?);
        let content_type = text(&head.headers, &CONTENT_TYPE)?;
        let body = body::read(body, &self.body, deadline).await?;
        let picture = form::picture(content_type, body.to_bytes()).await?;
        let classified = self.pipeline.classify(Picture::Encoded(picture), deadline, slot).await?;
        let queued = text(&head.headers, &header::QUEUE_MS)?.and_then(|waited| waited.parse().ok()).unwrap_or(0.0);
        Ok(self.describe(&classified, top_k, queued, received.elapsed()))
    }

    fn describe(&self, classified: &Classified, top_k: usize, queued_ms: f64, here: Duration) -> Answer {
        let labels = self.labels.get().map_or(&[][..], Vec::as_slice);
        let predictions = best(&softmax(&classified.logits), labels, top_k);
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 100.0;
        let timing = Timing {
            queue: queued_ms,
            decode: milliseconds(classified.times.decode),
            batch: milliseconds(classified.times.batch),
            inference: milliseconds(classified.times.inference),
            total: queued_ms + milliseconds(here),
        };
        Answer::new(predictions, self.model.get().map_or("", String::as_str), &self.name, timing)
    }
}

/// The `top_k` likeliest classes, best first; equals in class order.
fn best(probabilities: &[f32], labels: &[String], top_k: usize) -> Vec<Prediction> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let prediction = |class_index: usize| Prediction {
        class_index,
        label: labels.get(class_index).cloned().unwrap_or_default(),
        confidence: probabilities[class_index],
    };
    order.into_iter().take(top_k).map(prediction).collect()
}

/// Counts a request as in progress until it is dropped, and then records how long it took.
struct Progress {
    received: Instant,
}

impl Progress {
    fn start(received: Instant) -> Self {
        gauge!("inference_in_progress").increment(1.0);
        Self { received }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        gauge!("inference_in_progress").decrement(1.0);
        histogram!("inference_latency_seconds").record(self.received.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_sorted_and_cut() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let classes = |top_k| -> Vec<(usize, String)> {
            let all = best(&[0.1, 0.6, 0.3], &labels, top_k);
            all.into_iter().map(|prediction| (prediction.class_index, prediction.label)).collect()
        };
        assert_eq!(classes(2), [(1, "b".into()), (2, "c".into())]);
        assert_eq!(classes(9).len(), 3);
    }
}

//! Plain requests (see [`service::server::PlainHead`]) for classifications, which the server reads without hyper. Takes only
//! those that [`Handler`] would accept. It gets every other request by hyper, and refuses it there.

use crate::dispatch::Expiry;
use crate::handler::{Handler, LoggedRequest, Prediction};
use crate::request::{BufferedRequest, Endpoint};
use futures_util::future::{FutureExt, ready};
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use service::body::BodyLimits;
use service::headers::own_value;
use service::server::{Answering, PlainAnswer, PlainHead, PlainRequests, TakenRequest};
use service::trace::TraceContext;
use service::wire::{self, BodyFormat, PredictQuery, header};
use std::sync::Arc;
use std::time::Instant;

/// Answers plain requests by the queue of a [`Handler`].
pub struct PlainHandler(pub Arc<Handler>);

impl PlainRequests for PlainHandler {
    fn limits(&self) -> &BodyLimits {
        &self.0.body_limits
    }

    fn check(&self, head: &PlainHead<'_>, arrived: Instant) -> Option<TakenRequest> {
        let is_image = head.path == "/predict" || wire::takes_image(&Method::POST, head.path);
        if !is_image || head.has(&CONTENT_ENCODING) || head.has(&header::TRACESTATE) {
            return None;
        }
        let content_type = head.text(&CONTENT_TYPE).ok()?;
        BodyFormat::from_content_type(content_type).ok()?;
        let endpoint = Endpoint::Predict(PredictQuery::parse(head.query).ok()?);
        let requested = wire::timeout(head.text(&header::TIMEOUT_MS).ok()?).ok()?;
        let (request_id, traceparent) = (head.value(&header::REQUEST_ID).ok()?, head.value(&header::TRACEPARENT).ok()?);
        let account = match &self.0.tokens {
            Some(tokens) => Some(tokens.account_of(head.value(&AUTHORIZATION).ok()?).ok()?),
            None => None,
        };
        let handler = self.0.clone();
        let memory_budget = account.as_ref().map_or(&handler.memory_budget, |account| &account.memory_budget).clone();
        let budget = handler.request_limits.timeout(requested);
        let mut trace = TraceContext::from_values(request_id, traceparent);
        let logged = handler.log.is_on().then(|| {
            let span = handler.log.begin_span(&mut trace);
            LoggedRequest::new(head.path, arrived, trace.clone(), span).into()
        });
        let content_type = content_type.map(|value| own_value(value.as_bytes()));
        let tenant = account.as_ref().map(|account| account.tenant).unwrap_or_default();
        let kept_bytes = content_type.as_ref().map_or(0, HeaderValue::len) + trace.header_bytes();
        let answer = Box::new(move |body, accepted: Instant| {
            let deadline = accepted + budget;
            // The rate counts the request only now, because hyper gets a request with a slow body after all.
            let allowed = account.as_ref().map_or(Ok(()), |account| account.check_rate(accepted));
            let received = allowed.map_err(|refusal| (refusal, trace.clone())).map(|()| {
                handler.meters.upload.record(accepted - arrived);
                let timeline = handler.log.timeline();
                let request =
                    BufferedRequest { body, content_type, tenant, endpoint, trace, accepted, deadline, timeline };
                Arc::new(request)
            });
            let predicted = handler.predict(ready(received), Expiry::Polled, account, false, logged);
            let answer = predicted.map(|predicted| predicted.map_or_else(|refusal| (*refusal).into(), answer_with));
            Answering { answer: answer.boxed(), deadline }
        });
        Some(TakenRequest { kept_bytes, memory_budget, answer })
    }
}

fn answer_with(prediction: Prediction) -> PlainAnswer {
    let Prediction { answer, request } = prediction;
    let mut plain = PlainAnswer::new(answer.status, answer.kind.content_type(), answer.body);
    request.trace.for_each_header(|name, value| plain.header(name.as_str(), value));
    plain
}

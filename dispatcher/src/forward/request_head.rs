//! Writes the head of the request that a replica receives. Pure.

use crate::request::{BufferedRequest, Endpoint};
use service::wire::{PredictQuery, header};
use std::time::Duration;

/// The memory for a head, in bytes. A usual head has some 350, so that it is allocated once.
const USUAL_HEAD_BYTES: usize = 512;

/// What a request tells the replica about its slot.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotUse {
    /// The random number by which replicas know this dispatcher.
    pub dispatcher: u64,
    /// Whether the replica has granted the slot to the dispatcher before.
    pub is_granted: bool,
}

/// Returns the head of `request` to the replica `address`. It tells the replica the time that `remains` until the
/// deadline, at least a millisecond, the time that the request has `waited`, and which `slot` it uses.
pub(super) fn write(
    address: &str,
    request: &BufferedRequest,
    remains: Duration,
    waited: Duration,
    slot: SlotUse,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(USUAL_HEAD_BYTES);
    head.extend_from_slice(b"POST ");
    match &request.endpoint {
        Endpoint::Predict(query) if *query == PredictQuery::default() => head.extend_from_slice(b"/predict"),
        Endpoint::Predict(query) => head.extend_from_slice(format!("/predict{query}").as_bytes()),
        Endpoint::Infer(infer) => head.extend_from_slice(infer.path.as_bytes()),
    }
    // Discovery publishes visible ASCII characters only, and hyper has checked the values of the client's headers, so
    // that no value can have a line break.
    head.extend_from_slice(b" HTTP/1.1");
    start_line(&mut head, "host");
    head.extend_from_slice(address.as_bytes());
    start_line(&mut head, "content-length");
    number(&mut head, request.body.len() as u64);
    start_line(&mut head, header::TIMEOUT_MS.as_str());
    number(&mut head, remains.as_millis().max(1) as u64);
    start_line(&mut head, header::QUEUE_MS.as_str());
    milliseconds(&mut head, waited);
    start_line(&mut head, header::DISPATCHER_ID.as_str());
    hexadecimal(&mut head, slot.dispatcher);
    if slot.is_granted {
        start_line(&mut head, header::SLOT_GRANTED.as_str());
        head.push(b'1');
    }
    if let Some(content_type) = &request.content_type {
        start_line(&mut head, "content-type");
        head.extend_from_slice(content_type.as_bytes());
    }
    if let Endpoint::Infer(infer) = &request.endpoint
        && let Some(json_length) = &infer.json_length
    {
        start_line(&mut head, header::INFERENCE_JSON_LENGTH.as_str());
        head.extend_from_slice(json_length.as_bytes());
    }
    request.trace.for_each_header(|name, value| {
        start_line(&mut head, name.as_str());
        head.extend_from_slice(value);
    });
    head.extend_from_slice(b"\r\n\r\n");
    head
}

/// Ends the line before, and writes the name of the next header.
fn start_line(head: &mut Vec<u8>, name: &str) {
    head.extend_from_slice(b"\r\n");
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
}

fn number(head: &mut Vec<u8>, number: u64) {
    head.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes 16 hexadecimal digits.
fn hexadecimal(head: &mut Vec<u8>, number: u64) {
    head.extend((0..16).rev().map(|digit| b"0123456789abcdef"[(number >> (4 * digit) & 15) as usize]));
}

/// Writes milliseconds with three decimal places, such as `12.345`.
fn milliseconds(head: &mut Vec<u8>, duration: Duration) {
    let microseconds = duration.as_micros() as u64;
    number(head, microseconds / 1000);
    let below = microseconds % 1000;
    let digit = |unit: u64| b'0' + (below / unit % 10) as u8;
    head.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fair::Tenant;
    use crate::request::InferEndpoint;
    use hyper::HeaderMap;
    use hyper::header::HeaderValue;
    use service::body::Chunks;
    use service::memory_budget::MemoryBudget;
    use service::trace::TraceContext;
    use service::wire::TopK;
    use std::time::Instant;

    #[test]
    fn milliseconds_have_three_decimal_places() {
        for (microseconds, expected) in
            [(0, "0.000"), (7, "0.007"), (12_345, "12.345"), (999_090, "999.090"), (86_400_000_000, "86400000.000")]
        {
            let mut head = Vec::new();
            milliseconds(&mut head, Duration::from_micros(microseconds));
            assert_eq!(String::from_utf8_lossy(&head), expected);
        }
    }

    #[test]
    fn a_head_has_the_values_of_the_request_and_ends_with_an_empty_line() {
        let mut headers = HeaderMap::new();
        headers.insert(header::REQUEST_ID, HeaderValue::from_static("order-7"));
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(header::TRACEPARENT, HeaderValue::from_static(parent));
        let path = "/v2/models/resnet18/infer".to_owned();
        let infer = InferEndpoint { path, json_length: Some(HeaderValue::from_static("120")) };
        for (endpoint, content_type, line, kind, is_granted) in [
            (Endpoint::Predict(PredictQuery::default()), None, "POST /predict HTTP/1.1", "", false),
            (
                Endpoint::Predict(PredictQuery { top_k: TopK::Count(3), embedding: true }),
                Some("image/png"),
                "POST /predict?top_k=3&embedding=1 HTTP/1.1",
                "content-type: image/png\r\n",
                true,
            ),
            (
                Endpoint::Infer(infer.into()),
                None,
                "POST /v2/models/resnet18/infer HTTP/1.1",
                "inference-header-content-length: 120\r\n",
                false,
            ),
        ] {
            let request = BufferedRequest {
                body: Chunks::new(MemoryBudget::new(0)),
                content_type: content_type.map(HeaderValue::from_static),
                tenant: Tenant::default(),
                endpoint,
                trace: TraceContext::from_headers(&headers),
                accepted: Instant::now(),
                deadline: Instant::now(),
                timeline: None,
            };
            let slot = SlotUse { dispatcher: 0xfeed_0000_0000_0001, is_granted };
            let granted = if is_granted { "x-slot-granted: 1\r\n" } else { "" };
            let head = write("replica:6000", &request, Duration::from_micros(10), Duration::from_micros(2500), slot);
            let expected = format!(
                "{line}\r\nhost: replica:6000\r\ncontent-length: 0\r\nx-request-timeout-ms: 1\r\n\
                 x-request-queue-ms: 2.500\r\nx-dispatcher-id: feed000000000001\r\n{granted}{kind}x-request-id: order-7\r\ntraceparent: {parent}\r\n\r\n"
            );
            assert_eq!(String::from_utf8_lossy(&head), expected);
        }
    }
}

//! The identifiers of a request, `x-request-id` and the W3C `traceparent`. Well-formed identifiers
//! of the client are kept, and others are replaced. Writes no logs and sends no spans.

use crate::headers::deep_copy;
use crate::wire::header;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// The identifiers of one request. The dispatcher and the replica use the same ones. Identifiers that are made here
/// stay numbers until they are written, because each waiting request holds its own, and a number takes less memory than
/// text.
#[derive(Debug, Clone)]
pub struct TraceContext {
    request_id: Id<u64>,
    /// The numbers are the upper and the lower half of the trace id, and the span id.
    traceparent: Id<[u64; 3]>,
}

/// An identifier of a request. `N` is the form of one that is made here.
#[derive(Debug, Clone)]
enum Id<N> {
    /// The value of a header that the client sent.
    Received(HeaderValue),
    /// Random numbers from this process.
    Generated(N),
}

/// The ids of the span that a server records for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSpan {
    /// The id of the trace, which all its spans share.
    pub trace_id: u128,
    /// The id of the client's span; `None` if the trace begins here.
    pub parent_id: Option<u64>,
    /// The id of the server's span.
    pub span_id: u64,
}

impl TraceContext {
    /// Takes each identifier from `headers`, or makes one. An `x-request-id` is accepted if it has 1 to 128 visible
    /// ASCII characters, and a `traceparent` if it has the form of version 00 of W3C Trace Context.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let request_id = headers.get(header::REQUEST_ID).filter(|id| is_request_id(id.as_bytes()));
        let traceparent = headers.get(header::TRACEPARENT).filter(|parent| is_traceparent(parent.as_bytes()));
        Self {
            request_id: request_id.map_or_else(|| Id::Generated(rand::random()), |id| Id::Received(deep_copy(id))),
            traceparent: traceparent.map_or_else(
                // W3C Trace Context forbids a trace id and a span id that are zero.
                || Id::Generated([rand::random(), random_id(), random_id()]),
                |parent| Id::Received(deep_copy(parent)),
            ),
        }
    }

    /// Makes a span of this server a part of the request's trace, and names it as the parent in the `traceparent` that
    /// replicas and the client receive. A trace of the client is continued if the client has sampled it. A trace that
    /// begins here is recorded if `sample` returns true. Returns `None` for a trace that is not recorded.
    pub fn begin_span(&mut self, sample: impl FnOnce() -> bool) -> Option<ServerSpan> {
        let span = match &self.traceparent {
            Id::Received(parent) => {
                // `from_headers` keeps only values of this form.
                let text = std::str::from_utf8(parent.as_bytes()).ok()?;
                let flags = u8::from_str_radix(text.get(53..55)?, 16).ok()?;
                let trace_id = u128::from_str_radix(text.get(3..35)?, 16).ok()?;
                let parent_id = u64::from_str_radix(text.get(36..52)?, 16).ok()?;
                let is_sampled = flags & 1 == 1;
                is_sampled.then(|| ServerSpan { trace_id, parent_id: Some(parent_id), span_id: random_id() })?
            }
            Id::Generated([high, low, span_id]) => {
                let trace_id = u128::from(*high) << 64 | u128::from(*low);
                sample().then_some(ServerSpan { trace_id, parent_id: None, span_id: *span_id })?
            }
        };
        let parent = format!("00-{:032x}-{:016x}-01", span.trace_id, span.span_id);
        self.traceparent = Id::Received(header_value(parent.as_bytes()));
        Some(span)
    }

    /// The request id as text. Error bodies contain it.
    pub fn request_id(&self) -> String {
        String::from_utf8_lossy(self.request_id_value().as_bytes()).into_owned()
    }

    /// Writes both identifiers into the headers of a forwarded request or of an answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::REQUEST_ID, self.request_id_value());
        headers.insert(header::TRACEPARENT, self.traceparent_value());
    }

    /// Passes the name and the value of the header of each identifier to `take`, without allocating memory.
    pub fn for_each_header(&self, mut take: impl FnMut(HeaderName, &[u8])) {
        match &self.request_id {
            Id::Received(id) => take(header::REQUEST_ID, id.as_bytes()),
            Id::Generated(number) => take(header::REQUEST_ID, &hex(*number)),
        }
        match &self.traceparent {
            Id::Received(parent) => take(header::TRACEPARENT, parent.as_bytes()),
            Id::Generated(numbers) => take(header::TRACEPARENT, &traceparent(*numbers)),
        }
    }

    fn request_id_value(&self) -> HeaderValue {
        match &self.request_id {
            Id::Received(id) => id.clone(),
            Id::Generated(number) => header_value(&hex(*number)),
        }
    }

    fn traceparent_value(&self) -> HeaderValue {
        match &self.traceparent {
            Id::Received(parent) => parent.clone(),
            Id::Generated(numbers) => header_value(&traceparent(*numbers)),
        }
    }
}

/// A random id that is not zero.
fn random_id() -> u64 {
    rand::random::<u64>().max(1)
}

/// The `traceparent` with these numbers: the upper and the lower half of the trace id, and the span id.
fn traceparent([high, low, span]: [u64; 3]) -> [u8; 55] {
    // The flags 00 mean "not sampled": no program has recorded a span of this trace.
    let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
    parent[3..19].copy_from_slice(&hex(high));
    parent[19..35].copy_from_slice(&hex(low));
    parent[36..52].copy_from_slice(&hex(span));
    parent
}

fn header_value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("hexadecimal digits and dashes are valid in a header")
}

/// `value` as 16 hexadecimal digits. `format!` takes twenty times as long, and this runs for every request.
fn hex(value: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (pair, byte) in text.chunks_exact_mut(2).zip(value.to_be_bytes()) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Whether `text` has the form `00-<32 hex>-<16 hex>-<2 hex>`, and neither trace id nor span id is zero.
fn is_traceparent(text: &[u8]) -> bool {
    let parts: Vec<&[u8]> = text.split(|&byte| byte == b'-').collect();
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    matches!(parts[..], [b"00", trace, span, flags]
        if [trace.len(), span.len(), flags.len()] == [32, 16, 2]
            && [trace, span, flags].into_iter().all(hex)
            && [trace, span].iter().all(|part| part.iter().any(|&byte| byte != b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_becomes_sixteen_hexadecimal_digits() {
        assert_eq!(hex(0x0123_4567_89ab_cdef), *b"0123456789abcdef");
        assert_eq!(hex(0xf), *b"000000000000000f");
    }

    fn received(name: HeaderName, value: &str) -> TraceContext {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        TraceContext::from_headers(&headers)
    }

    #[test]
    fn identifiers_that_are_made_here_are_well_formed_and_do_not_change() {
        let trace = TraceContext::from_headers(&HeaderMap::new());
        let written = [(); 2].map(|()| {
            let mut headers = HeaderMap::new();
            trace.write(&mut headers);
            headers
        });
        assert_eq!(written[0], written[1]);
        let mut passed = HeaderMap::new();
        trace.for_each_header(|name, value| {
            passed.insert(name, HeaderValue::from_bytes(value).expect("a value"));
        });
        assert_eq!(passed, written[0]);
        assert_eq!(written[0][header::REQUEST_ID], trace.request_id());
        assert!(is_request_id(written[0][header::REQUEST_ID].as_bytes()));
        assert!(is_traceparent(written[0][header::TRACEPARENT].as_bytes()), "{written:?}");
    }

    #[test]
    fn a_span_continues_a_sampled_trace_and_begins_a_new_one_only_if_it_is_sampled_here() {
        let parent = |flags: &str| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        let mut trace = received(header::TRACEPARENT, &parent("01"));
        let span = trace.begin_span(|| panic!("the client decides")).expect("the client has sampled the trace");
        assert_eq!(span.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(span.parent_id, Some(0x00f0_67aa_0ba9_02b7));
        let forwarded = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:016x}-01", span.span_id);
        assert_eq!(trace.traceparent_value(), forwarded);

        let mut trace = received(header::TRACEPARENT, &parent("00"));
        assert_eq!(trace.begin_span(|| panic!("the client decides")), None);
        assert_eq!(trace.traceparent_value(), parent("00"));

        let mut trace = TraceContext::from_headers(&HeaderMap::new());
        let before = trace.traceparent_value();
        assert_eq!(trace.begin_span(|| false), None);
        assert_eq!(trace.traceparent_value(), before);
        let span = trace.begin_span(|| true).expect("the trace is sampled here");
        assert_eq!(span.parent_id, None);
        let text = before.to_str().expect("ASCII").strip_suffix("00").expect("not sampled").to_owned();
        assert_eq!(trace.traceparent_value(), text + "01");
        assert!(is_traceparent(trace.traceparent_value().as_bytes()));
    }

    #[test]
    fn well_formed_identifiers_are_kept_and_others_are_replaced() {
        assert_eq!(received(header::REQUEST_ID, "order-7").request_id(), "order-7");
        for bad in ["", "two words", &"x".repeat(129)] {
            assert_ne!(received(header::REQUEST_ID, bad).request_id(), bad);
        }
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(received(header::TRACEPARENT, parent).traceparent_value(), parent);
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let generated = received(header::TRACEPARENT, bad).traceparent_value();
            assert!(generated != bad && is_traceparent(generated.as_bytes()), "{bad} became {generated:?}");
        }
    }
}

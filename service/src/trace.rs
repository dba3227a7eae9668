//! The identifiers of a request: `x-request-id`, and the W3C trace context (`traceparent` and `tracestate`). Well-formed
//! identifiers of the client are kept, and others are replaced. Writes no logs and sends no spans.

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
    /// Boxed, because most requests have none.
    tracestate: Option<Box<HeaderValue>>,
}

/// The most bytes of `tracestate` that are kept. W3C Trace Context, 3.3.1.5, asks for at least 512.
const MAX_TRACESTATE_BYTES: usize = 512;

/// The most members of `tracestate` (W3C Trace Context, 3.3.1.1).
const MAX_TRACESTATE_MEMBERS: usize = 32;

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

impl<N> Id<N> {
    /// The value of the client's header; `None` if the identifier was made here.
    fn received(&self) -> Option<&HeaderValue> {
        match self {
            Self::Received(value) => Some(value),
            Self::Generated(_) => None,
        }
    }
}

impl TraceContext {
    /// Takes each identifier from `headers`, or makes one. An `x-request-id` is accepted if it has 1 to 128 visible
    /// ASCII characters, and a `traceparent` if it has the form of W3C Trace Context. One of a version after 00 becomes
    /// one of version 00. A `tracestate` is kept only with a `traceparent` that is accepted.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let value = |name| headers.get(name).map(HeaderValue::as_bytes);
        let mut context = Self::from_values(value(header::REQUEST_ID), value(header::TRACEPARENT));
        if context.traceparent.received().is_some() {
            context.tracestate = tracestate(headers).map(Box::new);
        }
        context
    }

    /// Takes each identifier from the value of its header, or makes one, as [`TraceContext::from_headers`] does for a
    /// request without a `tracestate`.
    pub fn from_values(request_id: Option<&[u8]>, traceparent: Option<&[u8]>) -> Self {
        let request_id = request_id.filter(|id| is_request_id(id));
        Self {
            request_id: request_id.map_or_else(|| Id::Generated(rand::random()), |id| Id::Received(header_value(id))),
            tracestate: None,
            traceparent: traceparent.and_then(accepted_traceparent).map_or_else(
                // W3C Trace Context forbids a trace id and a span id that are zero.
                || Id::Generated([rand::random(), random_id(), random_id()]),
                Id::Received,
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

    /// The bytes of the headers that are kept.
    pub fn header_bytes(&self) -> usize {
        let received = [self.request_id.received(), self.traceparent.received(), self.tracestate.as_deref()];
        received.into_iter().flatten().map(HeaderValue::len).sum()
    }

    /// The request id as text. Error bodies contain it.
    pub fn request_id(&self) -> String {
        String::from_utf8_lossy(self.request_id_value().as_bytes()).into_owned()
    }

    /// Writes the identifiers into the headers of a forwarded request or of an answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::REQUEST_ID, self.request_id_value());
        headers.insert(header::TRACEPARENT, self.traceparent_value());
        if let Some(tracestate) = &self.tracestate {
            headers.insert(header::TRACESTATE, (**tracestate).clone());
        }
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
        if let Some(tracestate) = &self.tracestate {
            take(header::TRACESTATE, tracestate.as_bytes());
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
    HeaderValue::from_bytes(text).expect("all texts that are written here are visible ASCII")
}

/// `value` as 16 hexadecimal digits. `format!` takes fifty times as long, and this runs eight times for every request.
fn hex(value: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (digits, half) in text.chunks_exact_mut(8).zip([value >> 32, value & 0xffff_ffff]) {
        // Each of the eight digits gets a byte of its own.
        let pairs = (half | half << 16) & 0x0000_ffff_0000_ffff;
        let bytes = (pairs | pairs << 8) & 0x00ff_00ff_00ff_00ff;
        let nibbles = (bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // 1 in the bytes whose digit is a letter.
        let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        let ascii = nibbles + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1);
        digits.copy_from_slice(&ascii.to_be_bytes());
    }
    text
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The bytes of `00-<32 hex>-<16 hex>-<2 hex>`, the form of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// The `traceparent` of version 00 for the one that the client sent; `None` if that is malformed. A later version may
/// have more fields, and only the flag `sampled` is known to have the same meaning (W3C Trace Context, 2.2.5 and 4).
fn accepted_traceparent(text: &[u8]) -> Option<HeaderValue> {
    let (known, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
    let parts: Vec<&[u8]> = known.split(|&byte| byte == b'-').collect();
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let [version, trace, span, flags] = parts[..] else { return None };
    let is_well_formed = [version.len(), trace.len(), span.len(), flags.len()] == [2, 32, 16, 2]
        && parts.iter().all(|part| is_hex(part))
        && [trace, span].iter().all(|part| part.iter().any(|&byte| byte != b'0'));
    match version {
        _ if !is_well_formed => None,
        b"00" => rest.is_empty().then(|| header_value(known)),
        b"ff" => None,
        _ if !rest.is_empty() && rest[0] != b'-' => None,
        _ => {
            let is_sampled = u8::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok()? & 1 == 1;
            let mut parent = known.to_vec();
            parent[..2].copy_from_slice(b"00");
            parent[TRACEPARENT_BYTES - 2..].copy_from_slice(if is_sampled { b"01" } else { b"00" });
            Some(header_value(&parent))
        }
    }
}

/// The client's `tracestate`, which may come in several headers; `None` if it is absent, empty or no visible ASCII. Of a
/// longer one, the first members are kept, because the latest system writes the first (W3C Trace Context, 3.5).
fn tracestate(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut kept = String::new();
    let lines = headers.get_all(header::TRACESTATE).iter().map(|line| line.to_str());
    let members = lines.collect::<Result<Vec<_>, _>>().ok()?;
    let members = members.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|member| !member.is_empty());
    for member in members.take(MAX_TRACESTATE_MEMBERS) {
        let separator = if kept.is_empty() { "" } else { "," };
        if kept.len() + separator.len() + member.len() > MAX_TRACESTATE_BYTES {
            break;
        }
        kept.push_str(separator);
        kept.push_str(member);
    }
    (!kept.is_empty()).then(|| header_value(kept.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_sixteen_hexadecimal_digits() {
        let mut value = 1_u64;
        for _ in 0..1000 {
            assert_eq!(String::from_utf8_lossy(&hex(value)), format!("{value:016x}"));
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        for value in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(String::from_utf8_lossy(&hex(value)), format!("{value:016x}"));
        }
    }

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
    fn a_tracestate_is_kept_up_to_its_limit() {
        for (lengths, expected) in
            [(&[512][..], 512), (&[513], 0), (&[255, 256], 512), (&[256, 256], 256), (&[100, 411, 2], 512)]
        {
            let members: Vec<String> = lengths.iter().map(|length| format!("a={}", "x".repeat(length - 2))).collect();
            let mut headers = HeaderMap::new();
            for member in members {
                headers.append(header::TRACESTATE, HeaderValue::from_str(&member).expect("a header value"));
            }
            assert_eq!(tracestate(&headers).map_or(0, |kept| kept.len()), expected, "{lengths:?}");
        }
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
        assert!(accepted_traceparent(written[0][header::TRACEPARENT].as_bytes()).is_some(), "{written:?}");
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
        assert!(accepted_traceparent(trace.traceparent_value().as_bytes()).is_some());
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
            assert!(
                generated != bad && accepted_traceparent(generated.as_bytes()).is_some(),
                "{bad} became {generated:?}"
            );
        }
    }

    #[test]
    fn a_later_version_of_the_trace_context_is_read_as_version_00() {
        let [trace, span] = ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"];
        for (given, expected) in [
            (format!("00-{trace}-{span}-ff"), Some(format!("00-{trace}-{span}-ff"))),
            (format!("00-{trace}-{span}-01-more"), None),
            (format!("01-{trace}-{span}-01"), Some(format!("00-{trace}-{span}-01"))),
            (format!("cc-{trace}-{span}-03-what-the-future-will-be"), Some(format!("00-{trace}-{span}-01"))),
            (format!("cc-{trace}-{span}-02-"), Some(format!("00-{trace}-{span}-00"))),
            (format!("cc-{trace}-{span}-01.more"), None),
            (format!("ff-{trace}-{span}-01"), None),
            (format!("0g-{trace}-{span}-01"), None),
            (format!("01-{trace}-{span}"), None),
        ] {
            let accepted = accepted_traceparent(given.as_bytes());
            assert_eq!(
                accepted.as_ref().map(HeaderValue::as_bytes),
                expected.as_ref().map(String::as_bytes),
                "{given}"
            );
        }
    }

    #[test]
    fn a_trace_state_is_kept_with_its_trace_context_and_has_a_bound() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let long = format!("a={}", "x".repeat(300));
        let many = (0..40).map(|number| format!("k{number}=1")).collect::<Vec<_>>();
        for (parent, lines, expected) in [
            (parent, vec!["rojo=1, congo=t61"], Some("rojo=1,congo=t61".to_owned())),
            (parent, vec!["rojo=1,", "congo=2"], Some("rojo=1,congo=2".to_owned())),
            (parent, vec![&*long, &*long], Some(long.clone())),
            (parent, vec![&*many.join(",")], Some(many[..32].join(","))),
            (parent, vec![""], None),
            (parent, vec![], None),
            ("00-malformed", vec!["rojo=1"], None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::TRACEPARENT, HeaderValue::from_str(parent).expect("a header value"));
            for line in &lines {
                headers.append(header::TRACESTATE, HeaderValue::from_str(line).expect("a header value"));
            }
            let (trace, mut written) = (TraceContext::from_headers(&headers), HeaderMap::new());
            trace.write(&mut written);
            let kept = written.get(header::TRACESTATE).map(|value| value.to_str().expect("ASCII").to_owned());
            assert_eq!(kept, expected, "{lines:?}");
            assert!(trace.header_bytes() <= 55 + MAX_TRACESTATE_BYTES);
        }
    }
}

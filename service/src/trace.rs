//! Names for requests: `x-request-id` and W3C `traceparent`, taken over if well formed, made otherwise.

use crate::headers::detached;
use crate::wire::header;
use hyper::HeaderMap;
use hyper::header::HeaderValue;

/// What a request is called, here and on every later hop. Names that were made here are numbers until they are written:
/// many requests wait, and each of them holds its own.
#[derive(Debug, Clone)]
pub struct Trace {
    request_id: Name<u64>,
    /// The two halves of the trace's number, and the span's.
    traceparent: Name<[u64; 3]>,
}

#[derive(Debug, Clone)]
enum Name<N> {
    Given(HeaderValue),
    Made(N),
}

impl Trace {
    /// Reads or makes both: `x-request-id`, 1 to 128 visible characters, and `traceparent`, version 00 of W3C Trace
    /// Context.
    pub fn of(headers: &HeaderMap) -> Self {
        let request_id = headers.get(header::REQUEST_ID).filter(|id| is_request_id(id.as_bytes()));
        let traceparent = headers.get(header::TRACEPARENT).filter(|parent| is_traceparent(parent.as_bytes()));
        Self {
            request_id: request_id.map_or_else(|| Name::Made(rand::random()), |id| Name::Given(detached(id))),
            traceparent: traceparent.map_or_else(
                // Neither the trace's number nor the span's may be all zeros.
                || Name::Made([rand::random(), rand::random::<u64>().max(1), rand::random::<u64>().max(1)]),
                |parent| Name::Given(detached(parent)),
            ),
        }
    }

    /// The id as text, for error bodies.
    pub fn request_id(&self) -> String {
        String::from_utf8_lossy(self.request_id_value().as_bytes()).into_owned()
    }

    /// Writes both into the headers of a forwarded request or of an answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::REQUEST_ID, self.request_id_value());
        headers.insert(header::TRACEPARENT, self.traceparent_value());
    }

    fn request_id_value(&self) -> HeaderValue {
        match &self.request_id {
            Name::Given(id) => id.clone(),
            Name::Made(number) => made(&hex(*number)),
        }
    }

    fn traceparent_value(&self) -> HeaderValue {
        match &self.traceparent {
            Name::Given(parent) => parent.clone(),
            Name::Made([high, low, span]) => {
                // Not sampled.
                let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
                parent[3..19].copy_from_slice(&hex(*high));
                parent[19..35].copy_from_slice(&hex(*low));
                parent[36..52].copy_from_slice(&hex(*span));
                made(&parent)
            }
        }
    }
}

fn made(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("hexadecimal digits and dashes fit a header")
}

/// All 16 digits. Every request has some: `format!` takes twenty times as long.
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

/// `00-<32 hex>-<16 hex>-<2 hex>`
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
    use hyper::header::HeaderName;

    #[test]
    fn hexadecimal_digits_are_those_of_the_number() {
        assert_eq!(hex(0x0123_4567_89ab_cdef), *b"0123456789abcdef");
        assert_eq!(hex(0xf), *b"000000000000000f");
    }

    fn given(name: HeaderName, value: &str) -> Trace {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        Trace::of(&headers)
    }

    #[test]
    fn made_names_stay_the_same_and_are_well_formed() {
        let trace = Trace::of(&HeaderMap::new());
        let written = [(); 2].map(|()| {
            let mut headers = HeaderMap::new();
            trace.write(&mut headers);
            headers
        });
        assert_eq!(written[0], written[1]);
        assert_eq!(written[0][header::REQUEST_ID], trace.request_id());
        assert!(is_request_id(written[0][header::REQUEST_ID].as_bytes()));
        assert!(is_traceparent(written[0][header::TRACEPARENT].as_bytes()), "{written:?}");
    }

    #[test]
    fn well_formed_names_are_kept_and_others_replaced() {
        assert_eq!(given(header::REQUEST_ID, "order-7").request_id(), "order-7");
        for bad in ["", "two words", &"x".repeat(129)] {
            assert_ne!(given(header::REQUEST_ID, bad).request_id(), bad);
        }
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(given(header::TRACEPARENT, parent).traceparent_value(), parent);
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let made = given(header::TRACEPARENT, bad).traceparent_value();
            assert!(made != bad && is_traceparent(made.as_bytes()), "{bad} became {made:?}");
        }
    }
}

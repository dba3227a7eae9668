//! Reads those headers of an answer that concern the dispatcher, in one pass. A number is digits only, and a repeated
//! header of a replica counts as absent.

use super::answer::Malformed;
use crate::rotation::{MAX_CAPACITY, SlotNews};
use service::wire::{self, header};
use std::time::Duration;

/// The values of the headers that the dispatcher reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AnswerHeaders {
    /// The kind of the body.
    pub(super) kind: BodyKind,
    /// The number of bytes of the JSON at the start of a binary body of the Open Inference Protocol; `None` if it says
    /// none.
    pub(super) json_length: Option<u64>,
    /// The capacity that the replica advertises, 1 to [`MAX_CAPACITY`] slots; `None` if it advertises none.
    pub(super) capacity: Option<usize>,
    /// What the replica tells about its slots, at most [`MAX_CAPACITY`] of them.
    pub(super) slots: SlotNews,
    /// The time that the replica says it worked for its answer; `None` if it says none.
    pub(super) work: Option<Duration>,
    /// The time that the replica says a request costs it if its batches are full; `None` if it says none.
    pub(super) full_work: Option<Duration>,
}

/// The kind of the body of an answer, by its `Content-Type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON.
    Json,
    /// JSON that is followed by tensors, as the Open Inference Protocol has it.
    Binary,
    /// Any other kind.
    #[default]
    Other,
}

impl BodyKind {
    /// The `Content-Type` with which the client receives the body.
    pub fn content_type(self) -> &'static str {
        if self == Self::Binary { "application/octet-stream" } else { "application/json" }
    }
}

/// The headers of an answer with those that tell where it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadHeaders {
    pub(super) headers: AnswerHeaders,
    /// The length of the body in bytes.
    pub(super) length: u64,
    /// Whether the replica closes the connection after the answer.
    pub(super) closes: bool,
}

/// A header that may appear once.
#[derive(Debug, Default)]
struct Once<'a> {
    value: Option<&'a [u8]>,
    is_repeated: bool,
}

impl<'a> Once<'a> {
    fn set(&mut self, value: &'a [u8]) {
        self.is_repeated = self.value.replace(value).is_some();
    }

    /// The value; `None` if the header is absent or repeated.
    fn get(&self) -> Option<&'a [u8]> {
        self.value.filter(|_| !self.is_repeated)
    }

    /// The whole number in the value; `None` if there is none.
    fn number(&self) -> Option<u64> {
        wire::number(std::str::from_utf8(self.get()?).ok()?)
    }
}

impl AnswerHeaders {
    /// Reads `headers`.
    ///
    /// # Errors
    /// If the length of the body is missing, repeated or no number, or the body is chunked or compressed.
    pub(super) fn read(headers: &[httparse::Header<'_>]) -> Result<ReadHeaders, Malformed> {
        let [mut length, mut kind, mut json_length, mut capacity, mut work, mut full_work]: [Once<'_>; 6] =
            Default::default();
        let [mut taken, mut retry, mut others]: [Once<'_>; 3] = Default::default();
        let (mut closes, mut is_claimed) = (false, false);
        for &httparse::Header { name, value } in headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            // Most names differ in length, so that most comparisons end at once.
            if is("content-length") {
                length.set(value);
            } else if is("content-type") {
                kind.set(value);
            } else if is("connection") {
                closes |= has_token(value, b"close");
            } else if is(header::CAPACITY.as_str()) {
                capacity.set(value);
            } else if is(header::WORK_US.as_str()) {
                work.set(value);
            } else if is(header::FULL_WORK_US.as_str()) {
                full_work.set(value);
            } else if is(header::SLOTS_TAKEN.as_str()) {
                taken.set(value);
            } else if is(header::SLOTS_OF_OTHERS.as_str()) {
                others.set(value);
            } else if is(header::SLOTS_CLAIMED.as_str()) {
                is_claimed = true;
            } else if is(header::RETRY_MS.as_str()) {
                retry.set(value);
            } else if is(header::INFERENCE_JSON_LENGTH.as_str()) {
                json_length.set(value);
            } else if is("transfer-encoding") || is("content-encoding") && !value.eq_ignore_ascii_case(b"identity") {
                return Err(Malformed::Encoding);
            }
        }
        let microseconds = |value: Once<'_>| value.number().map(Duration::from_micros);
        let headers = Self {
            kind: kind.get().map_or(BodyKind::Other, body_kind),
            json_length: json_length.number(),
            capacity: capacity.number().filter(|&slots| slots > 0).map(cap),
            slots: SlotNews {
                taken: taken.number().map(cap),
                retry: retry.number().map(Duration::from_millis),
                others: others.number().map(cap),
                is_claimed,
            },
            work: microseconds(work),
            full_work: microseconds(full_work),
        };
        Ok(ReadHeaders { headers, length: length.number().ok_or(Malformed::Length)?, closes })
    }
}

/// `slots`, but no more than [`MAX_CAPACITY`].
fn cap(slots: u64) -> usize {
    slots.min(MAX_CAPACITY as u64) as usize
}

/// Whether the comma-separated list `value` has the `token` in any case.
fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// The kind of a body that a `Content-Type` names. Many servers add the parameter `charset`.
fn body_kind(value: &[u8]) -> BodyKind {
    let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        BodyKind::Json
    } else if essence.eq_ignore_ascii_case(b"application/octet-stream") {
        BodyKind::Binary
    } else {
        BodyKind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[(&str, &str)]) -> Result<ReadHeaders, Malformed> {
        let headers: Vec<_> =
            lines.iter().map(|&(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        AnswerHeaders::read(&headers)
    }

    /// Reads `lines` after a valid length.
    fn with_length(lines: &[(&str, &str)]) -> ReadHeaders {
        read(&[&[("Content-Length", "2")], lines].concat()).expect("the headers are valid")
    }

    #[test]
    fn the_numbers_of_a_replica_are_single_whole_numbers() {
        let names = [header::CAPACITY, header::WORK_US, header::FULL_WORK_US, header::SLOTS_TAKEN, header::RETRY_MS];
        for (values, expected) in [
            (&[][..], None),
            (&["48700"], Some(48_700)),
            (&["18446744073709551615"], Some(u64::MAX)),
            (&["18446744073709551616"], None),
            (&["-1"], None),
            (&["+1"], None),
            (&["1.5"], None),
            (&["1e3"], None),
            (&["0x10"], None),
            (&[" "], None),
            (&[""], None),
            (&["10, 20"], None),
            (&["soon"], None),
            (&["10", "20"], None),
            (&["10", "10"], None),
            (&["10", "10", "10"], None),
        ] {
            let lines: Vec<_> =
                names.iter().flat_map(|name| values.iter().map(|value| (name.as_str(), *value))).collect();
            let headers = with_length(&lines).headers;
            let time = expected.map(Duration::from_micros);
            assert_eq!((headers.work, headers.full_work), (time, time), "{values:?}");
            let slots = expected.map(|slots| slots.min(1024) as usize);
            assert_eq!((headers.capacity, headers.slots.taken), (slots, slots), "{values:?}");
            assert_eq!(headers.slots.retry, expected.map(Duration::from_millis), "{values:?}");
        }
    }

    #[test]
    fn a_capacity_is_between_1_and_its_maximum() {
        for (value, expected) in [("0", None), ("1", Some(1)), ("1024", Some(1024)), ("1025", Some(1024))] {
            assert_eq!(with_length(&[("X-Replica-Capacity", value)]).headers.capacity, expected, "{value}");
        }
    }

    #[test]
    fn a_body_has_one_length_and_no_encoding() {
        for (lines, expected) in [
            (&[("content-length", "7")][..], Ok(7)),
            (&[("CONTENT-LENGTH", "7"), ("Content-Encoding", "Identity")], Ok(7)),
            (&[], Err(Malformed::Length)),
            (&[("content-length", "")], Err(Malformed::Length)),
            (&[("content-length", "+7")], Err(Malformed::Length)),
            (&[("content-length", "7, 7")], Err(Malformed::Length)),
            (&[("content-length", "7"), ("content-length", "7")], Err(Malformed::Length)),
            (&[("content-length", "7"), ("transfer-encoding", "chunked")], Err(Malformed::Encoding)),
            (&[("transfer-encoding", "identity"), ("content-length", "7")], Err(Malformed::Encoding)),
            (&[("content-length", "7"), ("content-encoding", "gzip")], Err(Malformed::Encoding)),
        ] {
            assert_eq!(read(lines).map(|read| read.length), expected, "{lines:?}");
        }
    }

    #[test]
    fn json_may_have_parameters_and_a_connection_may_have_several_options() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("application/json-seq", false),
            ("text/html", false),
            ("", false),
        ] {
            assert_eq!(with_length(&[("Content-Type", value)]).headers.kind == BodyKind::Json, expected, "{value:?}");
        }
        for (value, expected) in
            [("keep-alive", false), ("close", true), ("Keep-Alive , Close", true), ("closed", false)]
        {
            assert_eq!(with_length(&[("Connection", value)]).closes, expected, "{value:?}");
        }
    }
}

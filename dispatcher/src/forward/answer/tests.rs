//! Tests of the reader of answers: valid and malformed answers, in one piece and in any others.

use super::super::headers::BodyKind;
use super::*;
use crate::rotation::SlotNews;
use proptest::prelude::*;
use proptest::test_runner::Config;

/// The result of reading `pieces` one after the other. It is `Ok(None)` if the answer is not complete.
fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Answer>, Malformed> {
    let mut reader = AnswerReader::new(MAX_BODY_BYTES);
    for piece in pieces {
        if let Some(answer) = reader.read(piece)? {
            return Ok(Some(answer));
        }
    }
    reader.end()?;
    Ok(None)
}

/// Reads `text` in one piece.
fn read(text: &str) -> Result<Option<Answer>, Malformed> {
    read_pieces([text.as_bytes()])
}

#[test]
fn an_answer_is_a_status_a_length_and_a_body() {
    let usual = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
                 x-replica-capacity: 4\r\nx-replica-work-us: 12\r\nx-replica-full-work-us: 7\r\n\
                 x-replica-slots-taken: 3\r\nx-replica-retry-ms: 9\r\n\r\n{}";
    let answer = read(usual).expect("the answer is valid").expect("the answer is complete");
    let headers = AnswerHeaders {
        kind: BodyKind::Json,
        json_length: None,
        capacity: Some(4),
        slots: SlotNews { taken: Some(3), retry: Some(std::time::Duration::from_millis(9)), ..SlotNews::default() },
        work: Some(std::time::Duration::from_micros(12)),
        full_work: Some(std::time::Duration::from_micros(7)),
    };
    let expected = Answer { status: StatusCode::OK, headers, body: "{}".into(), allows_reuse: true };
    assert_eq!(answer, expected);
}

#[test]
fn a_connection_is_used_again_only_after_a_persistent_answer_without_surplus_bytes() {
    for (text, body, allows_reuse) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "{}", true),
        ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", "{}", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", "{}", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}", "{}", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK", "{}", false),
    ] {
        let answer = read(text).expect("the answer is valid").expect("the answer is complete");
        assert_eq!((&answer.body[..], answer.allows_reuse), (body.as_bytes(), allows_reuse), "{text:?}");
    }
}

#[test]
fn an_answer_that_breaks_the_contract_is_malformed() {
    let long_line = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(MAX_HEAD_BYTES));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
    let long_body = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_BODY_BYTES + 1);
    for (text, expected) in [
        ("SSH-2.0-OpenSSH_9.6\r\n", Malformed::Head(httparse::Error::Version)),
        ("HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", Malformed::Head(httparse::Error::Version)),
        ("HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\n{}", Malformed::Head(httparse::Error::Status)),
        ("HTTP/1.1 200 OK\r\nContent Length: 2\r\n\r\n{}", Malformed::Head(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n folded\r\n\r\n{}", Malformed::Head(httparse::Error::HeaderName)),
        (&many, Malformed::Head(httparse::Error::TooManyHeaders)),
        (&long_line, Malformed::LongHead),
        ("HTTP/1.1 100 Continue\r\n\r\n", Malformed::Status(100)),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", Malformed::Status(101)),
        ("HTTP/1.1 099 ?\r\nContent-Length: 2\r\n\r\n{}", Malformed::Status(99)),
        ("HTTP/1.1 200 OK\r\n\r\n{}", Malformed::Length),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Malformed::Encoding),
        (&long_body, Malformed::LongBody { length: MAX_BODY_BYTES as u64 + 1, limit: MAX_BODY_BYTES }),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
            Malformed::LongBody { length: u64::MAX, limit: MAX_BODY_BYTES },
        ),
    ] {
        assert_eq!(read(text), Err(expected), "{text:.60?}");
    }
}

#[test]
fn a_declared_length_takes_no_memory_before_the_body_arrives() {
    let mut reader = AnswerReader::new(MAX_BODY_BYTES);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n{{");
    assert_eq!(reader.read(head.as_bytes()), Ok(None));
    assert!(reader.body.capacity() <= FIRST_BODY_BYTES, "{} bytes", reader.body.capacity());
    let rest = vec![b' '; MAX_BODY_BYTES - 1];
    let answer = reader.read(&rest).expect("the answer is valid").expect("the answer is complete");
    assert_eq!(answer.body.len(), MAX_BODY_BYTES);
}

#[test]
fn an_incomplete_answer_is_not_malformed() {
    for text in ["HTTP", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"] {
        let mut reader = AnswerReader::new(MAX_BODY_BYTES);
        assert!(!reader.has_begun());
        assert_eq!(reader.read(text.as_bytes()), Ok(None), "{text:?}");
        assert!(reader.has_begun() && reader.end().is_ok(), "{text:?}");
    }
}

proptest! {
    #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_pieces_in_which_an_answer_arrives_do_not_matter(
        text in prop_oneof![
            3 => (0_usize..40, 0_usize..3).prop_map(|(length, surplus)| format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Replica-Capacity: 3\r\n\r\n{}",
                "x".repeat(length + surplus)
            )),
            1 => Just("HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\n{}".to_owned()),
            1 => Just("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}".to_owned()),
            1 => Just("HTTP/1.1 200 OK\r\nbad header\r\n\r\n{}".to_owned()),
        ],
        lengths in prop::collection::vec(1_usize..9, 0..60),
    ) {
        let mut rest = text.as_bytes();
        let mut pieces = Vec::new();
        for length in lengths {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            if !piece.is_empty() {
                pieces.push(piece);
            }
            rest = after;
        }
        pieces.extend((!rest.is_empty()).then_some(rest));
        // Surplus bytes may arrive only after the answer is complete, so only an answer in one piece has them.
        let without_reuse = |read: Result<Option<Answer>, Malformed>| {
            read.map(|answer| answer.map(|answer| Answer { allows_reuse: true, ..answer }))
        };
        prop_assert_eq!(without_reuse(read_pieces(pieces)), without_reuse(read(&text)));
    }
}

#[test]
fn an_answer_to_an_inference_request_may_be_long_and_takes_memory_as_it_arrives() {
    let whole: Vec<u8> = (0..(5 << 20) + 7).map(|index: usize| (index % 251) as u8).collect();
    let mut reader = AnswerReader::new(MAX_LONG_BODY_BYTES);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", whole.len());
    assert_eq!(reader.read(head.as_bytes()), Ok(None));
    let mut answer = None;
    let mut arrived = 0;
    for piece in whole.chunks(8 << 10) {
        assert_eq!(answer, None);
        answer = reader.read(piece).expect("the answer is well formed");
        arrived += piece.len();
        let taken = reader.body.capacity();
        assert!(taken <= whole.len().min(2 * arrived.max(FIRST_BODY_BYTES)), "{taken} bytes for {arrived}");
    }
    assert!(answer.is_some_and(|answer| answer.body == whole));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_LONG_BODY_BYTES + 1);
    let read = AnswerReader::new(MAX_LONG_BODY_BYTES).read(head.as_bytes());
    assert!(matches!(read, Err(Malformed::LongBody { .. })), "{read:?}");
}

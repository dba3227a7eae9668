//! Reads an HTTP answer and compares its prediction with the image's label. Pure. Knows nothing of connections.

pub mod expected_value;
mod open_inference;
mod roundhouse;
mod torchserve;

use crate::connection::Received;
use crate::sample::RequestOutcome;
use clap::ValueEnum;
use expected_value::ExpectedValue;
use hyper::StatusCode;
use service::wire::{ErrorBody, Timing};
use std::borrow::Cow;

/// Longest error code that is kept, in characters. The codes of the HTTP API are shorter, but an unknown server may
/// send any text.
const MAX_CODE_CHARS: usize = 40;

/// The code of an answer that is not what `--target-kind` says.
const INVALID: &str = "invalid_answer";

/// The code of an answer in which a value of `--expect-json` is missing.
const UNEXPECTED: &str = "unexpected_answer";

/// The form of a server's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TargetKind {
    /// This project's HTTP API
    #[default]
    Roundhouse,
    /// Open Inference Protocol v2, as of Triton, KServe and MLServer
    Oip,
    /// Probabilities by label, or a list of scores, as of TorchServe
    Torchserve,
    /// Any answer with a status 2xx; its body is not read
    Status,
}

/// What one answer says.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The outcome of the request.
    pub outcome: RequestOutcome,
    /// The replica that answered; `None` if the answer does not name one.
    pub replica: Option<Box<str>>,
    /// The durations that the answer states; `None` if it states none.
    pub timing: Option<Timing>,
}

impl Answer {
    /// A request without an answer, with loadgen's error code.
    pub fn failed(code: &'static str) -> Self {
        Self { outcome: failed(code), replica: None, timing: None }
    }
}

/// The class that an answer predicts.
#[derive(Debug, Clone, PartialEq)]
enum Prediction<'a> {
    Label(Cow<'a, str>),
    /// The index of the class, from an answer that does not name classes.
    Index(usize),
    /// The answer is well-formed, but has no class.
    Nothing,
}

/// How answers are read and judged.
#[derive(Debug, Clone, Default)]
pub struct AnswerReader {
    /// The form of the answers.
    pub kind: TargetKind,
    /// The values that an answer must have to be right. If there are any, they decide instead of the prediction.
    pub expected: Vec<ExpectedValue>,
}

impl AnswerReader {
    /// Reads an answer. `label` is the label of the image that was sent, if it is known.
    pub fn read(&self, answer: &Received, label: Option<&str>) -> Answer {
        let Received { status, headers, body } = answer;
        let outcome = |outcome| Answer { outcome, replica: None, timing: None };
        let judged = |prediction: Option<Prediction<'_>>| {
            outcome(prediction.map_or_else(|| failed(INVALID), |prediction| prediction.judge(label)))
        };
        // The APIs of predictions answer with 200; any other status 2xx says that there is no prediction yet.
        let has_answer = match self.kind {
            _ if !self.expected.is_empty() => status.is_success(),
            TargetKind::Status => status.is_success(),
            TargetKind::Roundhouse | TargetKind::Oip | TargetKind::Torchserve => *status == StatusCode::OK,
        };
        if !has_answer {
            return outcome(refusal(*status, body));
        }
        if !self.expected.is_empty() {
            return outcome(match expected_value::judge(&self.expected, body, label) {
                Some(right) => RequestOutcome::Answered { right },
                None => failed(UNEXPECTED),
            });
        }
        match self.kind {
            TargetKind::Roundhouse => roundhouse::read(body, label).unwrap_or_else(|| outcome(failed(INVALID))),
            TargetKind::Oip => judged(open_inference::prediction(headers, body)),
            TargetKind::Torchserve => judged(torchserve::prediction(body)),
            TargetKind::Status => outcome(RequestOutcome::Answered { right: None }),
        }
    }
}

impl Prediction<'_> {
    /// The outcome of a request with this prediction. An index says whether the answer is right only if the label is a
    /// number, too.
    fn judge(self, label: Option<&str>) -> RequestOutcome {
        let right = match (self, label) {
            (_, None) | (Prediction::Nothing, _) => None,
            (Prediction::Label(found), Some(label)) => Some(found == label),
            (Prediction::Index(found), Some(label)) => label.trim().parse::<usize>().ok().map(|index| index == found),
        };
        RequestOutcome::Answered { right }
    }
}

fn failed(code: &'static str) -> RequestOutcome {
    RequestOutcome::Failed { code: code.into() }
}

/// The outcome of a request that was answered with another status than that of a prediction.
fn refusal(status: StatusCode, body: &[u8]) -> RequestOutcome {
    let code: String = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => error.code.chars().take(MAX_CODE_CHARS).map(printable).collect(),
        Err(_) => format!("http_{}", status.as_u16()),
    };
    RequestOutcome::Failed { code: code.into() }
}

/// Replaces control characters, so that a server's text cannot send commands to the terminal on which it is printed.
fn printable(character: char) -> char {
    if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }
}

/// The index of the largest number, the first of several; `None` if there is none, or one of them is NaN.
fn index_of_largest(scores: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, score) in scores.enumerate() {
        if score.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, largest)| score > largest) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;

    /// The outcome of an answer with this status and body for an image with this label.
    pub(super) fn outcome(kind: TargetKind, status: u16, body: &str, label: Option<&str>) -> RequestOutcome {
        let status = StatusCode::from_u16(status).expect("a status");
        let received = Received { status, headers: HeaderMap::new(), body: body.to_owned().into() };
        AnswerReader { kind, expected: Vec::new() }.read(&received, label).outcome
    }

    pub(super) fn answered(right: Option<bool>) -> RequestOutcome {
        RequestOutcome::Answered { right }
    }

    #[test]
    fn any_status_2xx_is_an_answer_for_the_kind_status_only() {
        for (kind, status, expected) in [
            (TargetKind::Status, 200, answered(None)),
            (TargetKind::Status, 204, answered(None)),
            (TargetKind::Status, 301, failed("http_301")),
            (TargetKind::Status, 500, failed("http_500")),
            (TargetKind::Oip, 202, failed("http_202")),
            (TargetKind::Torchserve, 202, failed("http_202")),
            (TargetKind::Roundhouse, 202, failed("http_202")),
        ] {
            assert_eq!(outcome(kind, status, "[0.1, 0.9]", Some("1")), expected, "{kind:?} {status}");
        }
    }

    #[test]
    fn an_index_is_compared_with_labels_that_are_numbers() {
        for (prediction, label, right) in [
            (Prediction::Index(7), Some("7"), Some(true)),
            (Prediction::Index(7), Some("8"), Some(false)),
            (Prediction::Index(7), Some("plain circle"), None),
            (Prediction::Label("cat".into()), Some("cat"), Some(true)),
            (Prediction::Label("cat".into()), Some("dog"), Some(false)),
            (Prediction::Label("cat".into()), None, None),
            (Prediction::Nothing, Some("cat"), None),
        ] {
            assert_eq!(prediction.clone().judge(label), answered(right), "{prediction:?} {label:?}");
        }
    }

    #[test]
    fn the_first_of_the_largest_numbers_is_found() {
        for (scores, index) in
            [(&[][..], None), (&[0.5], Some(0)), (&[-2.0, -1.0, -1.0], Some(1)), (&[1.0, f64::NAN], None)]
        {
            assert_eq!(index_of_largest(scores.iter().copied()), index, "{scores:?}");
        }
    }
}

//! The record of one request: its times, its size and its outcome.

use std::borrow::Cow;
use std::time::Duration;

/// The record of one request, from its scheduled send time to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The scheduled send time, since the start of the run.
    pub scheduled: Duration,
    /// Time from the scheduled to the actual send time. It is caused by loadgen, not by the server.
    pub send_delay: Duration,
    /// Time from the scheduled send time to the whole answer, or to the failure.
    pub latency: Duration,
    /// Length of the request's body, in bytes.
    pub sent_bytes: u32,
    /// Length of the answer's body, in bytes; 0 without an answer.
    pub received_bytes: u32,
    /// The outcome of the request.
    pub outcome: RequestOutcome,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The server answered with status 200 and a prediction.
    Answered {
        /// Whether the prediction is the image's label; `None` if the label is not known.
        right: Option<bool>,
    },
    /// The request failed.
    Failed {
        /// The error code of the answer's body, such as `queue_full`; or a code of loadgen, such as `connect`.
        code: Cow<'static, str>,
    },
}

impl Sample {
    /// Whether the request was answered, with a right or a wrong prediction.
    pub fn is_answered(&self) -> bool {
        matches!(self.outcome, RequestOutcome::Answered { .. })
    }

    /// Whether the request was answered within `objective`.
    pub fn is_within(&self, objective: Duration) -> bool {
        self.is_answered() && self.latency <= objective
    }

    /// Whether the request was answered within `objective`, and its prediction is not known to be wrong.
    pub fn is_good(&self, objective: Duration) -> bool {
        self.latency <= objective && matches!(self.outcome, RequestOutcome::Answered { right: None | Some(true) })
    }
}

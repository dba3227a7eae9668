//! The record of one request: its times, its size and its outcome.

use service::wire::Timing;
use std::borrow::Cow;
use std::time::Duration;

/// The record of one request, from its scheduled send time to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The number of the request in its load, from 0. The requests of the warm-up are counted, too.
    pub index: usize,
    /// The index of the image that the request carried.
    pub image: usize,
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
    /// The HTTP status of the answer; `None` without an answer.
    pub status: Option<u16>,
    /// The name of the replica that answered; `None` if the answer does not have it.
    pub replica: Option<Box<str>>,
    /// The duration of each stage at the server; `None` if the answer does not have it.
    pub timing: Option<Timing>,
    /// The outcome of the request.
    pub outcome: RequestOutcome,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The server answered with a prediction.
    Answered {
        /// Whether the prediction is the image's label; `None` if the label is not known.
        right: Option<bool>,
    },
    /// The request failed.
    Failed {
        /// The error code of the answer's body, such as `queue_full`; or a code of loadgen, such as `connect`.
        code: Cow<'static, str>,
    },
    /// The request was in flight when loadgen stopped waiting, after the user had stopped the run.
    Unfinished,
}

impl RequestOutcome {
    /// The code of a request without a prediction: its error code, or `unfinished`. `None` for an answered request.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Answered { .. } => None,
            Self::Failed { code } => Some(code),
            Self::Unfinished => Some("unfinished"),
        }
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The sample of a request that was sent on time. The times are in milliseconds.
    pub(crate) fn sample(scheduled: u64, latency: u64, outcome: RequestOutcome) -> Sample {
        Sample {
            index: 0,
            image: 0,
            scheduled: Duration::from_millis(scheduled),
            send_delay: Duration::ZERO,
            latency: Duration::from_millis(latency),
            sent_bytes: 1000,
            received_bytes: 10,
            status: Some(200),
            replica: None,
            timing: None,
            outcome,
        }
    }

    /// The outcome of an answered request whose image has no label.
    pub(crate) const ANSWERED: RequestOutcome = RequestOutcome::Answered { right: None };

    /// The outcome of a request that failed with `code`.
    pub(crate) fn failed(code: &'static str) -> RequestOutcome {
        RequestOutcome::Failed { code: code.into() }
    }
}

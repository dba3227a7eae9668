//! What became of one request.

use std::borrow::Cow;
use std::time::Duration;

/// One request, from its schedule to its end. Times are since the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When it was to be sent.
    pub scheduled: Duration,
    /// How much later it was sent: the generator's own fault.
    pub send_delay: Duration,
    /// Scheduled → whole answer, or failure.
    pub latency: Duration,
    /// Of its body.
    pub sent_bytes: u32,
    /// Of the answer's body; 0 if none came.
    pub received_bytes: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 200, and whether the label was right, where that is known.
    Answered {
        /// Nothing where no label is known.
        right: Option<bool>,
    },
    /// Anything else: the contract's code, or what went wrong below it.
    Failed {
        /// `queue_full`, `connect`, …
        code: Cow<'static, str>,
    },
}

impl Sample {
    /// Whether it was answered, rightly or not.
    pub fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { .. })
    }

    /// Whether it was answered within `objective`.
    pub fn is_within(&self, objective: Duration) -> bool {
        self.is_answered() && self.latency <= objective
    }

    /// Whether it was answered within `objective`, and not wrongly.
    pub fn is_good(&self, objective: Duration) -> bool {
        self.latency <= objective && matches!(self.outcome, Outcome::Answered { right: None | Some(true) })
    }
}

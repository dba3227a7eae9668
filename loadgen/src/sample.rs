//! What became of one request.

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
        code: String,
    },
}

impl Sample {
    /// Whether it was answered within `objective`, and not wrongly.
    pub fn is_good(&self, objective: Duration) -> bool {
        self.latency <= objective && matches!(self.outcome, Outcome::Answered { right: None | Some(true) })
    }
}

//! The attempts of one request in the order in which they ended, for logs. It is kept only while a log needs it.

use crate::failure::AttemptFailure;
use crate::rotation::Address;
use hyper::StatusCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The largest number of attempts that are kept. Later ones are left out, because a request may meet many busy or
/// unreachable replicas before its deadline.
const MAX_ATTEMPTS: usize = 16;

/// One attempt of a request at a replica.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The address of the replica.
    pub replica: Address,
    /// The instant at which the request was given to the replica.
    pub started: Instant,
    /// Time from then to the end of the attempt.
    pub elapsed: Duration,
    /// The status of the answer, or the failure of an attempt without an answer.
    pub result: Result<StatusCode, AttemptFailure>,
}

/// The attempts of one request.
#[derive(Debug, Default)]
pub struct Timeline {
    attempts: Mutex<Vec<Attempt>>,
}

/// The invariant of the lock around the attempts.
const UNPOISONED: &str = "no thread panics while it holds the attempts";

impl Timeline {
    /// Adds an attempt that has ended.
    pub fn record(&self, attempt: Attempt) {
        let mut attempts = self.attempts.lock().expect(UNPOISONED);
        if attempts.len() < MAX_ATTEMPTS {
            attempts.push(attempt);
        }
    }

    /// The attempts that have ended so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().expect(UNPOISONED).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_meets_many_busy_replicas_keeps_a_bounded_number_of_attempts() {
        let timeline = Timeline::default();
        for number in 0..1000_u64 {
            let elapsed = Duration::from_millis(number);
            let result = Err(AttemptFailure::Busy);
            timeline.record(Attempt { replica: "a:1".into(), started: Instant::now(), elapsed, result });
        }
        let attempts = timeline.attempts();
        assert_eq!(attempts.len(), MAX_ATTEMPTS);
        assert_eq!(attempts[3].elapsed, Duration::from_millis(3), "the first ones are kept");
    }
}

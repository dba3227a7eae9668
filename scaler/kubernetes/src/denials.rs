//! Whether the API server forbids requests for good. Pure.

use crate::ApiError;
use std::time::Duration;
use tokio::time::Instant;

/// The time for which requests must have been forbidden before a Role is to blame. An API server that has just started
/// forbids every request until it has read the Roles.
pub const LASTING: Duration = Duration::from_secs(10);

/// The requests of one kind that were forbidden in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Denials {
    /// The time of the first one; `None` if the last request was not forbidden.
    since: Option<Instant>,
}

impl Denials {
    /// Notes the failure of a request at `now`, or `None` if it succeeded.
    pub fn note(&mut self, failure: Option<&ApiError>, now: Instant) {
        let is_forbidden = failure.is_some_and(|failure| failure.is(401) || failure.is(403));
        self.since = is_forbidden.then(|| self.since.unwrap_or(now));
    }

    /// Whether the last requests were forbidden, but not for long.
    pub fn may_pass(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now < since + LASTING)
    }

    /// Whether requests have been forbidden for so long that permissions must be missing.
    pub fn last(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now >= since + LASTING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_denials_for_ten_seconds_in_a_row_last() {
        let refused = |code| ApiError::Refused { code, message: String::new() };
        let (mut denials, start) = (Denials::default(), Instant::now());
        for (second, code, may_pass, last) in [
            (0, None, false, false),
            (1, Some(403), true, false),
            (10, Some(403), true, false),
            (11, Some(401), false, true),
            (12, Some(500), false, false),
            (13, Some(403), true, false),
            (14, None, false, false),
            (60, Some(403), true, false),
        ] {
            let (failure, now) = (code.map(refused), start + Duration::from_secs(second));
            denials.note(failure.as_ref(), now);
            assert_eq!((denials.may_pass(now), denials.last(now)), (may_pass, last), "at {second} s");
        }
    }
}

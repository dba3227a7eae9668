//! A limit for the lines of a log: at most a few in a second, and the next one says how many were left out. Time is an
//! argument.

use std::time::{Duration, Instant};

/// The largest number of lines in a second. In an outage, every request or every replica would write one.
const LINES_PER_SECOND: u32 = 10;

/// Counts the lines since the beginning of the present second.
#[derive(Debug)]
pub struct LogLimit {
    began: Instant,
    written: u32,
    omitted: u64,
}

impl LogLimit {
    /// A limit whose first second begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self { began: now, written: 0, omitted: 0 }
    }

    /// Whether a line may be written at `now`: the number of lines that were left out before it, or `None`.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.began) >= Duration::from_secs(1) {
            (self.began, self.written) = (now, 0);
        }
        if self.written >= LINES_PER_SECOND {
            self.omitted += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_the_omitted_ones_counted() {
        let start = Instant::now();
        let mut limit = LogLimit::new(start);
        let admitted = (0..100).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(admitted, LINES_PER_SECOND as usize);
        assert_eq!(limit.admit(start + Duration::from_millis(999)), None);
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(91));
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(0));
    }
}

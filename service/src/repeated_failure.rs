//! Keeps failures that come again and again, as in an outage of another server, from filling the log. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The time for which a failure is not logged again.
const PAUSE: Duration = Duration::from_secs(60);

/// The most different failures that are logged within [`PAUSE`]. A text may have a part that differs each time, such as a
/// number of seconds.
const MOST: usize = 10;

/// The failures of one kind of requests that were logged lately.
#[derive(Debug, Default)]
pub struct RepeatedFailure {
    logged: HashMap<String, Instant>,
}

impl RepeatedFailure {
    /// Whether the failure with this text is to be logged at `now`: if it was not logged in the last minute.
    pub fn is_news(&mut self, text: &str, now: Instant) -> bool {
        self.logged.retain(|_, then| now < *then + PAUSE);
        let is_news = !self.logged.contains_key(text) && self.logged.len() < MOST;
        if is_news {
            self.logged.insert(text.to_owned(), now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_when_its_text_changes_and_once_a_minute() {
        let (mut failure, start) = (RepeatedFailure::default(), Instant::now());
        for (second, text, is_news) in [
            (0, "refused", true),
            (1, "refused", false),
            (4, "timeout", true),
            // Two texts take turns.
            (8, "refused", false),
            (12, "timeout", false),
            (59, "refused", false),
            (60, "refused", true),
            (64, "timeout", true),
        ] {
            assert_eq!(failure.is_news(text, start + Duration::from_secs(second)), is_news, "{text} at {second} s");
        }
    }

    #[test]
    fn an_hour_of_failures_with_texts_that_all_differ_has_a_bounded_number_of_lines() {
        let (mut failure, start) = (RepeatedFailure::default(), Instant::now());
        let lines =
            (0..3600).filter(|second| failure.is_news(&format!("{second}"), start + Duration::from_secs(*second)));
        assert_eq!(lines.count(), 60 * MOST);
    }
}

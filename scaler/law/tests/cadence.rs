//! When steps are due at an interval, with ticks that come early or late.

use law::cadence::Cadence;
use std::time::Duration;

#[test]
fn steps_are_due_an_interval_apart_at_least_and_missed_ones_are_not_made_up_for() {
    for (ticks, due) in [
        (&[0, 1000, 1950, 2100, 3000, 4010, 9000, 9500, 10_000, 12_000][..], [2000, 4000, 6000, 10_000, 12_000]),
        (&[0, 1950, 4010, 9000, 10_000, 11_950], [2000, 4000, 6000, 10_000, 12_000]),
    ] {
        let mut cadence = Cadence::new(Duration::from_secs(2));
        let found = ticks.iter().filter_map(|&tick| cadence.due(Duration::from_millis(tick)));
        assert_eq!(found.map(|due| due.as_millis()).collect::<Vec<_>>(), due);
    }
}

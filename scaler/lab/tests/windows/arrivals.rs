//! The measured rate of arrivals under steady and changing load.

use lab::laws::windows::arrivals::{ArrivalRate, Arrivals};
use std::time::Duration;

/// The rate after `counts` arrivals, one number for each second.
fn rate(counts: &[f64]) -> ArrivalRate {
    let (mut arrivals, mut total) = (Arrivals::default(), 0.0);
    for (second, count) in counts.iter().enumerate() {
        total += count;
        arrivals.count(Duration::from_secs(second as u64), total);
    }
    arrivals.rate(3.6).expect("there are at least two counts")
}

#[test]
fn the_window_is_long_while_nothing_changes_and_short_after_a_change() {
    let steady = rate(&[10.0; 130]);
    assert_eq!((steady.per_second, steady.window, steady.jump), (10.0, 120.0, 0.0));
    let risen = rate(&[vec![10.0; 100], vec![40.0; 5]].concat());
    assert_eq!((risen.per_second, risen.window), (40.0, 4.0));
    assert!((risen.jump - 22.5).abs() < 1.0 && risen.slope > 5.0, "{risen:?}");
    let fallen = rate(&[vec![40.0; 100], vec![10.0; 2]].concat());
    assert_eq!((fallen.per_second, fallen.window, fallen.jump), (10.0, 2.0, 0.0));
}

#[test]
fn arrivals_are_silent_after_two_minutes_without_a_request() {
    let mut arrivals = Arrivals::default();
    for second in 0..=122 {
        assert_eq!(arrivals.is_silent(), second == 121, "before {second} s");
        arrivals.count(Duration::from_secs(second), if second <= 120 { 7.0 } else { 8.0 });
    }
}

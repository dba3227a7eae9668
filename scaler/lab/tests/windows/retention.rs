//! How long replicas are kept after they were needed.

use lab::laws::windows::retention::Retention;
use std::time::Duration;

#[test]
fn replicas_are_kept_a_little_longer_than_the_load_was_away() {
    let second = Duration::from_secs;
    let mut retention = Retention::new(second(20), second(120));
    for (at, needed, kept) in [
        (0, 3, [(19, 3), (20, 0)]),
        (10, 1, [(19, 3), (29, 1)]),
        // Three replicas were last needed 40 s ago, so they are kept for 50 s.
        (40, 3, [(89, 3), (90, 0)]),
        // They were last needed 110 s ago. The longest time is 120 s.
        (150, 3, [(269, 3), (270, 0)]),
        // They were last needed 130 s ago, so they are kept for the first time, 20 s, again.
        (280, 3, [(299, 3), (300, 0)]),
    ] {
        retention.note(second(at), needed);
        assert_eq!(kept.map(|(at, _)| (at, retention.replicas(second(at)))), kept);
    }
}

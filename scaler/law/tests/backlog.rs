//! The requests that are too late with each number of replicas.

use law::backlog::Backlogs;
use law::lateness::Waiting;

#[test]
fn requests_beyond_the_wait_limit_are_late_and_leave() {
    // A replica serves 10 requests per second, and a request may wait for 0.4 s.
    let waiting = Waiting { service: 0.1, squared_variation: 0.0, limit: 0.4 };
    let mut backlogs = Backlogs::new(3);
    for (seconds, arrivals, late) in [
        // One replica leaves 15 waiting and serves 4 of these in time. Two leave 5, of their limit 8.
        (1.0, 25.0, [25.0, 11.0, 0.0, 0.0]),
        (1.0, 25.0, [25.0, 15.0, 2.0, 0.0]),
        (2.0, 0.0, [0.0, 0.0, 0.0, 0.0]),
        (0.5, 9.0, [9.0, 0.0, 0.0, 0.0]),
    ] {
        assert_eq!(backlogs.add(seconds, arrivals, waiting), late);
    }
}

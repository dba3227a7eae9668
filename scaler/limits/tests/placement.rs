//! How long replicas may wait for a node.

use limits::placement::Placements;
use std::time::Duration;

const S: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn replicas_may_wait_for_as_long_as_placements_take() {
    let mut placements = Placements::default();
    assert_eq!(placements.time_limit(), S(300));
    placements.add_withdrawn(S(3));
    assert_eq!(placements.time_limit(), S(300), "the load has fallen, which says nothing");
    // The seconds of a placement or of a wait in vain, and the seconds in which the next replica may get a node.
    for (is_placed, seconds, limit) in
        [(true, 4, 10), (false, 10, 15), (false, 2, 15), (false, 16, 24), (true, 60, 90), (true, 900, 600)]
    {
        if is_placed {
            placements.add(S(seconds))
        } else {
            placements.add_withdrawn(S(seconds))
        }
        assert_eq!(placements.time_limit(), S(limit), "after {seconds} s");
    }
    for _ in 0..10 {
        placements.add(S(20));
    }
    assert_eq!(placements.time_limit(), S(30), "the longest of the last ten");
}

#[test]
fn a_node_that_is_promised_may_take_five_minutes_or_longer_if_nodes_have() {
    let mut placements = Placements::default();
    assert_eq!((placements.promised_time_limit(), placements.mean()), (S(300), None));
    placements.add(S(10));
    assert_eq!(placements.promised_time_limit(), S(300));
    placements.add(S(300));
    assert_eq!((placements.promised_time_limit(), placements.mean()), (S(450), Some(S(155))));
    placements.add(S(900));
    assert_eq!(placements.promised_time_limit(), S(600), "ten minutes at most");
}

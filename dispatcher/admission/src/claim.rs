//! Claims: what a dispatcher that has no free slot tells a replica, and the order in which a replica serves the claims
//! of several dispatchers. Pure: ages are arguments, because the clocks of two machines differ.

use std::cmp::Reverse;
use std::time::Duration;

/// The age from which on a dispatcher renews a claim whose next request is no longer the same.
pub const RENEWAL: Duration = Duration::from_millis(50);

/// The claim of one dispatcher at one replica. All its times are relative to the instant at which it was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// The number of slots that the dispatcher could use. With 0, the claim is withdrawn.
    pub slots: usize,
    /// The number of waiting requests in the class of the next request: punctual requests, or late ones if none is
    /// punctual.
    pub waiting: usize,
    /// The time for which the next request has waited.
    pub waited: Duration,
    /// The time after its arrival at which a request becomes late; `None` if the next request is late.
    pub late_after: Option<Duration>,
}

/// The turn of a claim. The claim with the smallest turn is served first: punctual requests come before late ones, and
/// among them the one that has waited longest. So a free slot goes to the request that it would go to if one queue held
/// the requests of all dispatchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    is_late: bool,
    waited: Reverse<Duration>,
}

impl Claim {
    /// The turn of a claim that the replica got `age` ago.
    ///
    /// The next request of `n` has probably got a slot elsewhere since. In a steady state each request waits as long as
    /// the one before it, so the dispatcher's next request has then waited no longer than the first one had. A single
    /// request has waited for the whole age, because its claim would have been withdrawn. In between, `age / n` is added
    /// to the wait. If the whole age were always added, the dispatcher that sends claims least often would seem to wait
    /// longest: each dispatcher would get as many slots as any other, not as many as its requests need.
    pub fn turn(&self, age: Duration) -> Turn {
        let waiting = u32::try_from(self.waiting.max(1)).unwrap_or(u32::MAX);
        let waited = self.waited + age / waiting;
        match self.late_after {
            None => Turn { is_late: true, waited: Reverse(waited) },
            Some(late_after) if waiting == 1 && waited > late_after => Turn { is_late: true, waited: Reverse(waited) },
            // One of many punctual requests is always next, even if the first one has become late.
            Some(late_after) => Turn { is_late: false, waited: Reverse(waited.min(late_after)) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn claim(waiting: usize, waited: u64, late_after: Option<u64>) -> Claim {
        Claim { slots: waiting, waiting, waited: MS(waited), late_after: late_after.map(MS) }
    }

    #[test]
    fn the_longest_waiting_punctual_request_is_served_first() {
        for (what, (first, first_age), (second, second_age)) in [
            ("a longer wait", (claim(1, 80, Some(400)), 0), (claim(1, 50, Some(400)), 0)),
            ("the whole age of a single request counts", (claim(1, 10, Some(400)), 60), (claim(1, 50, Some(400)), 0)),
            ("the age of many counts little", (claim(1, 50, Some(400)), 0), (claim(10, 40, Some(400)), 60)),
            ("punctual before late", (claim(1, 0, Some(400)), 0), (claim(5, 3000, None), 0)),
            ("a single request becomes late", (claim(1, 100, Some(400)), 0), (claim(1, 390, Some(400)), 20)),
            ("another of many is punctual", (claim(9, 390, Some(400)), 200), (claim(1, 100, Some(400)), 0)),
        ] {
            assert!(first.turn(MS(first_age)) < second.turn(MS(second_age)), "{what}");
        }
    }
}

//! The retry budget, which all requests share: a token bucket over the last ten seconds. Without it, retries would
//! multiply the load when every replica fails. Time is an argument.

use std::time::{Duration, Instant};

/// The number of parts into which the time of the budget is divided.
const SLOTS: usize = 10;

/// The length of one part. The budget counts the requests and retries of `SLOTS` parts, so of the last 9 to 10 s.
const SLOT: Duration = Duration::from_secs(1);

/// The requests whose deposits pay for one retry: a fifth of the recent requests may be retried.
const REQUESTS_PER_RETRY: i64 = 5;

/// Retries per second that the budget permits besides those for requests. Without them, a dispatcher with few requests
/// could not retry.
const FREE_PER_SECOND: i64 = 10;

/// The balance without any request, in deposits.
const RESERVE: i64 = FREE_PER_SECOND * SLOTS as i64 * REQUESTS_PER_RETRY;

/// The requests and retries of the last seconds.
#[derive(Debug)]
pub struct RetryBudget {
    /// Deposits less withdrawals of each part, as a ring.
    slots: [i64; SLOTS],
    /// The index of the present part.
    current: usize,
    /// The time at which the present part began.
    began: Instant,
}

impl RetryBudget {
    /// A budget without requests.
    pub fn new(now: Instant) -> Self {
        Self { slots: [0; SLOTS], current: 0, began: now }
    }

    /// Counts a request.
    pub fn deposit(&mut self, now: Instant) {
        self.advance(now);
        self.slots[self.current] += 1;
    }

    /// Takes one retry from the budget and returns true. Returns false if there is none.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let permits = self.permits(now);
        if permits {
            self.slots[self.current] -= REQUESTS_PER_RETRY;
        }
        permits
    }

    /// Whether the budget has a retry.
    pub fn permits(&mut self, now: Instant) -> bool {
        self.advance(now);
        RESERVE + self.slots.iter().sum::<i64>() >= REQUESTS_PER_RETRY
    }

    /// Makes the part of `now` the present one.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < SLOT {
            return;
        }
        let passed = elapsed.as_secs();
        for _ in 0..passed.min(SLOTS as u64) {
            self.current = (self.current + 1) % SLOTS;
            self.slots[self.current] = 0;
        }
        self.began += Duration::from_secs(passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// Withdraws until the budget has no retry left. Returns the number of retries.
    fn empty(budget: &mut RetryBudget, now: Instant) -> u32 {
        (0..).find(|_| !budget.withdraw(now)).expect("a budget is finite")
    }

    #[test]
    fn a_fifth_of_the_recent_requests_and_ten_a_second_may_be_retried() {
        let start = Instant::now();
        for (requests, expected) in [(0, 100), (4, 100), (5, 101), (1000, 300)] {
            let mut budget = RetryBudget::new(start);
            (0..requests).for_each(|_| budget.deposit(start));
            assert_eq!(empty(&mut budget, start), expected, "{requests} requests");
            for (seconds, expected) in [(9, 0), (10, 100), (10, 0), (11, 0), (1000, 100)] {
                let now = start + Duration::from_secs(seconds);
                assert_eq!(empty(&mut budget, now), expected, "{requests} requests, after {seconds} s");
            }
        }
    }

    proptest! {
        #[test]
        fn the_budget_is_the_sum_of_the_last_ten_seconds(
            steps in prop::collection::vec((0_u64..3000, any::<bool>()), 1..200),
        ) {
            let start = Instant::now();
            let mut budget = RetryBudget::new(start);
            // Each event with its whole second. Events that are older than ten of them do not count.
            let (mut milliseconds, mut events) = (0, VecDeque::<(u64, i64)>::new());
            for (pause, is_request) in steps {
                milliseconds += pause;
                let (now, second) = (start + Duration::from_millis(milliseconds), milliseconds / 1000);
                events.retain(|(at, _)| at + SLOTS as u64 > second);
                if is_request {
                    budget.deposit(now);
                    events.push_back((second, 1));
                } else {
                    for _ in 0..30 {
                        let balance = RESERVE + events.iter().map(|(_, amount)| amount).sum::<i64>();
                        let permits = balance >= REQUESTS_PER_RETRY;
                        prop_assert_eq!(budget.permits(now), permits, "after {} ms", milliseconds);
                        prop_assert_eq!(budget.withdraw(now), permits, "after {} ms", milliseconds);
                        if permits {
                            events.push_back((second, -REQUESTS_PER_RETRY));
                        }
                    }
                }
            }
        }
    }
}

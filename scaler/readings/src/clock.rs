//! Estimates by how much another clock differs from the scaler's. Pure.

/// The fastest growth of the difference between two clocks, in seconds per second: Linux slews a clock by no more.
const MAX_SLEW: f64 = 5e-4;

/// The longest delay of an answer, in seconds. A longer one means that one of the clocks has jumped or stood still.
/// Without this limit, the figures would count as too old for hours.
const MAX_DELAY: f64 = 2.0;

/// The difference between the scaler's clock and another one. An answer is read off the other clock, and is received
/// after an unknown delay. So the least difference seen is the best estimate.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockOffset {
    /// The scaler's time less the other clock's, in seconds.
    pub(super) seconds: f64,
    /// The time of the last answer by the other clock.
    read: f64,
}

impl ClockOffset {
    /// The offset after one answer that was made at `read` by the other clock, and received at `received` by the
    /// scaler's.
    pub(super) fn new(read: f64, received: f64) -> Self {
        Self { seconds: received - read, read }
    }

    /// Learns from a later answer.
    pub(super) fn learn(&mut self, read: f64, received: f64) {
        let found = received - read;
        let slewed = self.seconds + MAX_SLEW * (read - self.read).max(0.0);
        let has_jumped = found - self.seconds > MAX_DELAY;
        *self = Self { seconds: if has_jumped { found } else { found.min(slewed) }, read };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_with_the_least_delay_counts_until_a_clock_jumps() {
        let mut offset = ClockOffset::new(100.0, 11.0);
        for (read, received, expected) in [
            // The first answer came late, and this one at once.
            (101.0, 11.0, -90.0),
            (102.0, 13.9, -90.0 + MAX_SLEW),
            (103.0, 13.0, -90.0),
            // The other clock jumps ahead, and then back.
            (3703.0, 13.5, -3689.5),
            (104.0, 14.5, -89.5),
        ] {
            offset.learn(read, received);
            assert!((offset.seconds - expected).abs() < 1e-9, "{read} {received}: {offset:?}");
        }
    }
}

//! How many requests arrive per second, and whether the rate has just changed.

use law::window::Window;
use std::time::Duration;

/// Windows over which arrivals are averaged, seconds.
const WINDOWS: [f64; 9] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0];

/// Seconds by which a window may be shorter than its nominal length, because ticks come a little early or late.
const JITTER: f64 = 0.02;

/// Standard deviations by which the rate of a shorter window must be lower to contradict a longer window. At 4, chance
/// hardly ever shortens the window of a steady load.
const FALL: f64 = 4.0;

/// The arrivals of the longest window.
#[derive(Debug)]
pub struct Arrivals(Window<f64>);

/// The present rate of arrivals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ArrivalRate {
    /// Requests per second.
    pub per_second: f64,
    /// Seconds over which the rate was measured.
    pub window: f64,
    /// Requests per second by which the rate exceeds that before the window, if it has just risen; otherwise 0.
    pub jump: f64,
    /// The change of the rate over the last eight seconds, in requests per second, per second.
    pub slope: f64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self(Window::new(Duration::from_secs_f64(WINDOWS[WINDOWS.len() - 1])))
    }
}

impl Arrivals {
    /// Records the number of all arrivals until `at`.
    pub fn count(&mut self, at: Duration, arrivals: f64) {
        self.0.push(at, arrivals);
    }

    /// The mean over the longest window that no shorter window contradicts. A shorter window contradicts a longer one
    /// if its rate is higher by more than `sudden` standard deviations, or lower by more than 4. `None` before the
    /// second count.
    pub fn rate(&self, sudden: f64) -> Option<ArrivalRate> {
        let spans: Vec<Span> = WINDOWS.iter().filter_map(|&window| self.last(window)).collect();
        let mut chosen = *spans.first()?;
        let mut jump = 0.0;
        for (index, &longer) in spans.iter().enumerate().skip(1) {
            // The change came at the beginning of the window that contradicts most strongly.
            let contradiction = spans[..index]
                .iter()
                .map(|&shorter| (shorter, longer.without(shorter)))
                .filter(|&(shorter, before)| shorter.contradicts(before, sudden))
                .max_by(|a, b| a.0.deviations_above(a.1).abs().total_cmp(&b.0.deviations_above(b.1).abs()));
            if let Some((shorter, before)) = contradiction {
                chosen = shorter;
                jump = (shorter.rate() - before.rate()).max(0.0);
                break;
            }
            chosen = longer;
        }
        Some(ArrivalRate { per_second: chosen.rate(), window: chosen.seconds, jump, slope: self.slope() })
    }

    /// The arrivals of the shortest span up to the newest count that is at least `seconds` less [`JITTER`] long; `None`
    /// if counting began later.
    fn last(&self, seconds: f64) -> Option<Span> {
        let &(now, count) = self.0.newest()?;
        let &(then, before) = self.0.at(now.checked_sub(Duration::from_secs_f64(seconds - JITTER))?)?;
        Some(Span { seconds: (now - then).as_secs_f64(), arrivals: count - before })
    }

    /// Whether no request has arrived within the longest window.
    pub fn is_silent(&self) -> bool {
        self.last(WINDOWS[WINDOWS.len() - 1]).is_some_and(|span| span.arrivals == 0.0)
    }

    /// The change of the rate over the last eight seconds: the difference between the rates of the two halves, whose
    /// middles are four seconds apart.
    fn slope(&self) -> f64 {
        let (Some(half), Some(whole)) = (self.last(4.0), self.last(8.0)) else { return 0.0 };
        (half.rate() - whole.without(half).rate()) / 4.0
    }
}

/// The arrivals in a span of time.
#[derive(Debug, Clone, Copy)]
struct Span {
    seconds: f64,
    arrivals: f64,
}

impl Span {
    fn rate(self) -> f64 {
        self.arrivals / self.seconds
    }

    /// The part of this span before its last part `end`.
    fn without(self, end: Self) -> Self {
        Self { seconds: self.seconds - end.seconds, arrivals: self.arrivals - end.arrivals }
    }

    /// Whether the rate differs from that of the span `before` by more than chance explains.
    fn contradicts(self, before: Self, sudden: f64) -> bool {
        let deviations = self.deviations_above(before);
        before.seconds > 0.0 && (deviations > sudden || deviations < -FALL)
    }

    /// Standard deviations by which this rate lies above that of `before`, if requests arrive as a Poisson process. It
    /// is the signed root of the likelihood-ratio statistic, two rates against one. That is close to normal even for
    /// few requests (Wilks 1938; McCullagh and Nelder 1989, 2.4). Example: 20 requests in a second, after 7 in each of
    /// 99 seconds: √(2·(20·ln(20 ÷ 7.13) + 693·ln(7 ÷ 7.13))) = 3.97.
    fn deviations_above(self, before: Self) -> f64 {
        let both = (self.arrivals + before.arrivals) / (self.seconds + before.seconds);
        let part = |span: Self| if span.arrivals > 0.0 { span.arrivals * (span.rate() / both).ln() } else { 0.0 };
        let root = (2.0 * (part(self) + part(before))).max(0.0).sqrt();
        if self.rate() < before.rate() { -root } else { root }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_poisson_counts() {
        let [second, none, before] =
            [(1.0, 20.0), (1.0, 0.0), (99.0, 693.0)].map(|(seconds, arrivals)| Span { seconds, arrivals });
        // The last row is −√(2·693·ln(7 ÷ 6.93)).
        for (span, other, expected) in
            [(second, before, 3.97), (before, second, -3.97), (none, none, 0.0), (none, before, -3.73)]
        {
            let found = span.deviations_above(other);
            assert!((found - expected).abs() < 0.01, "{found} is not {expected}");
        }
    }
}

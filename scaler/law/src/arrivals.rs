//! How many requests arrive per second, and whether that has just changed.

use crate::window::Window;
use std::time::Duration;

/// Windows over which arrivals are averaged, seconds.
const WINDOWS: [f64; 9] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0];

/// Ticks come a little early or late: a window may be so much shorter, seconds.
const JITTER: f64 = 0.02;

/// Standard deviations by which a window contradicts a longer one: a lower rate, and a higher one over more than [`SHORT`]
/// seconds. So many that chance hardly ever shortens the window of a steady load.
const FALL: f64 = 4.0;
const RISE: f64 = 4.0;
const SHORT: f64 = 2.0;

/// Cumulative counts of arrivals over the longest window.
#[derive(Debug)]
pub struct Arrivals(Window<f64>);

/// The present rate of arrivals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests per second.
    pub per_second: f64,
    /// Seconds over which it was measured.
    pub window: f64,
    /// Requests per second by which it has just risen over the rate before the window; 0 if it has not.
    pub jump: f64,
    /// Requests per second, per second, over the last eight seconds.
    pub slope: f64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self(Window::new(Duration::from_secs_f64(WINDOWS[WINDOWS.len() - 1])))
    }
}

impl Arrivals {
    /// Notes the number of all arrivals until `at`.
    pub fn count(&mut self, at: Duration, arrivals: f64) {
        self.0.push(at, arrivals);
    }

    /// The mean over the longest window that no shorter one contradicts. A rise over less than [`SHORT`] seconds contradicts
    /// if it is higher by more than `sudden` standard deviations. `None` before the second count.
    pub fn rate(&self, sudden: f64) -> Option<Rate> {
        let spans: Vec<Span> = WINDOWS.iter().filter_map(|&window| self.last(window)).collect();
        let mut chosen = *spans.first()?;
        let mut jump = 0.0;
        for (index, &longer) in spans.iter().enumerate().skip(1) {
            // The change came at the beginning of the window that contradicts most.
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
        Some(Rate { per_second: chosen.rate(), window: chosen.seconds, jump, slope: self.slope() })
    }

    /// The last `seconds`, or a little more; `None` if counting began later.
    fn last(&self, seconds: f64) -> Option<Span> {
        let &(now, count) = self.0.newest()?;
        let &(then, before) = self.0.at(now.checked_sub(Duration::from_secs_f64(seconds - JITTER))?)?;
        Some(Span { seconds: (now - then).as_secs_f64(), arrivals: count - before })
    }

    /// Whether no request has arrived within the longest window.
    pub fn is_silent(&self) -> bool {
        self.last(WINDOWS[WINDOWS.len() - 1]).is_some_and(|span| span.arrivals == 0.0)
    }

    /// The difference of the rates in the two halves of the last eight seconds, whose middles lie four seconds apart.
    fn slope(&self) -> f64 {
        let (Some(half), Some(whole)) = (self.last(4.0), self.last(8.0)) else { return 0.0 };
        (half.rate() - whole.without(half).rate()) / 4.0
    }
}

/// Arrivals in a span of time.
#[derive(Debug, Clone, Copy)]
struct Span {
    seconds: f64,
    arrivals: f64,
}

impl Span {
    fn rate(self) -> f64 {
        self.arrivals / self.seconds
    }

    /// The part before `end`, which is the last part.
    fn without(self, end: Self) -> Self {
        Self { seconds: self.seconds - end.seconds, arrivals: self.arrivals - end.arrivals }
    }

    /// Whether the difference from the span `before` is hardly chance.
    fn contradicts(self, before: Self, sudden: f64) -> bool {
        let rise = if self.seconds < SHORT { sudden } else { sudden.max(RISE) };
        let deviations = self.deviations_above(before);
        before.seconds > 0.0 && (deviations > rise || deviations < -FALL)
    }

    /// Standard deviations by which this rate lies above the rate of `before`, for Poisson counts: the signed root of the
    /// likelihood ratio of two rates to one, which is close to normal even for few requests (Wilks 1938; McCullagh and
    /// Nelder 1989, 2.4). Example: 20 requests in a second after 7 in each of 99 seconds:
    /// √(2·(20·ln(20 ÷ 7.13) + 693·ln(7 ÷ 7.13))) = 3.97.
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

    /// The rate after so many arrivals in each second.
    fn rate(counts: &[f64]) -> Rate {
        let (mut arrivals, mut total) = (Arrivals::default(), 0.0);
        for (second, count) in counts.iter().enumerate() {
            total += count;
            arrivals.count(Duration::from_secs(second as u64), total);
        }
        arrivals.rate(3.6).expect("two counts")
    }

    #[test]
    fn memory_is_long_while_nothing_changes_and_short_after_a_change() {
        let steady = rate(&[10.0; 130]);
        assert_eq!((steady.per_second, steady.window, steady.jump), (10.0, 120.0, 0.0));
        let risen = rate(&[vec![10.0; 100], vec![40.0; 5]].concat());
        assert_eq!((risen.per_second, risen.window), (40.0, 4.0));
        assert!((risen.jump - 22.5).abs() < 1.0 && risen.slope > 5.0, "{risen:?}");
        let fallen = rate(&[vec![40.0; 100], vec![10.0; 2]].concat());
        assert_eq!((fallen.per_second, fallen.window, fallen.jump), (10.0, 2.0, 0.0));
    }

    #[test]
    fn deviations_are_those_of_poisson_counts() {
        let [second, none, before] =
            [(1.0, 20.0), (1.0, 0.0), (99.0, 693.0)].map(|(seconds, arrivals)| Span { seconds, arrivals });
        // The last is -√(2·693·ln(7 ÷ 6.93)).
        for (span, other, expected) in
            [(second, before, 3.97), (before, second, -3.97), (none, none, 0.0), (none, before, -3.73)]
        {
            let found = span.deviations_above(other);
            assert!((found - expected).abs() < 0.01, "{found} is not {expected}");
        }
    }

    #[test]
    fn silence_is_silence_for_two_minutes() {
        let mut arrivals = Arrivals::default();
        for second in 0..=122 {
            assert_eq!(arrivals.is_silent(), second == 121, "before {second} s");
            arrivals.count(Duration::from_secs(second), if second <= 120 { 7.0 } else { 8.0 });
        }
    }
}

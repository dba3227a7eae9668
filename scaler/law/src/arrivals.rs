//! PURE: how many requests arrive per second, how surely, and whether that has just changed.

use crate::window::Window;
use std::time::Duration;

/// Lengths over which arrivals are averaged, seconds.
const WINDOWS: [f64; 9] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0];

/// A tick comes a little early or late; so much is no difference, seconds.
const JITTER: f64 = 0.02;

/// Standard deviations by which a short window contradicts a longer one: when it is lower, and when it is longer than
/// [`SHORT`] seconds and higher. So far from chance that a steady load of any rate is hardly ever cut short.
const FALL: f64 = 4.0;
const RISE: f64 = 4.0;
const SHORT: f64 = 2.0;

/// Counted arrivals over the last two minutes.
#[derive(Debug)]
pub struct Arrivals {
    /// Cumulative counts.
    counts: Window<f64>,
}

/// The rate as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests per second.
    pub per_second: f64,
    /// Over how many seconds it was measured: as many as agree with each other.
    pub window: f64,
    /// Requests per second by which it has just risen over what was before the window; 0 if it has not.
    pub jump: f64,
    /// Requests per second, per second, over the last seconds.
    pub slope: f64,
}

/// Nothing was counted yet.
impl Default for Arrivals {
    fn default() -> Self {
        Self { counts: Window::new(Duration::from_secs_f64(WINDOWS[WINDOWS.len() - 1])) }
    }
}

impl Arrivals {
    /// So many have arrived until now, since whenever.
    pub fn count(&mut self, at: Duration, arrivals: f64) {
        self.counts.push(at, arrivals);
    }

    /// The average over the longest window that no shorter one contradicts: long memory while nothing changes, short
    /// memory when something does. Within seconds, a rise by more than `sudden` standard deviations does. Nothing before
    /// it was counted twice.
    pub fn rate(&self, sudden: f64) -> Option<Rate> {
        let spans: Vec<Span> = WINDOWS.iter().filter_map(|&window| self.last(window)).collect();
        let mut chosen = *spans.first()?;
        let mut jump = 0.0;
        for (index, &longer) in spans.iter().enumerate().skip(1) {
            // What contradicts most, if anything: the change came at its beginning.
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

    /// The last `seconds`, or a little more; nothing if it was not counted for so long.
    fn last(&self, seconds: f64) -> Option<Span> {
        let &(now, count) = self.counts.newest()?;
        let &(then, before) = self.counts.at(now.checked_sub(Duration::from_secs_f64(seconds - JITTER))?)?;
        Some(Span { seconds: (now - then).as_secs_f64(), arrivals: count - before })
    }

    /// Whether nothing has arrived for as long as the longest window.
    pub fn is_silent(&self) -> bool {
        self.last(WINDOWS[WINDOWS.len() - 1]).is_some_and(|span| span.arrivals == 0.0)
    }

    /// Between the two halves of the last eight seconds.
    fn slope(&self) -> f64 {
        let (Some(half), Some(whole)) = (self.last(4.0), self.last(8.0)) else { return 0.0 };
        // Their middles lie four seconds apart.
        (half.rate() - whole.without(half).rate()) / 4.0
    }
}

/// Arrivals in a stretch of time.
#[derive(Debug, Clone, Copy)]
struct Span {
    seconds: f64,
    arrivals: f64,
}

impl Span {
    fn rate(self) -> f64 {
        self.arrivals / self.seconds
    }

    /// What lies before `end`, its last part.
    fn without(self, end: Self) -> Self {
        Self { seconds: self.seconds - end.seconds, arrivals: self.arrivals - end.arrivals }
    }

    /// Whether it cannot be chance that this comes after `before`.
    fn contradicts(self, before: Self, sudden: f64) -> bool {
        let rise = if self.seconds < SHORT { sudden } else { sudden.max(RISE) };
        let deviations = self.deviations_above(before);
        before.seconds > 0.0 && (deviations > rise || deviations < -FALL)
    }

    /// How many standard deviations this rate lies above another one, for Poisson counts: the signed root of the
    /// likelihood ratio of two rates to one, which is as good as normal even for a few (Wilks 1938; McCullagh and Nelder
    /// 1989, 2.4). E.g. 20 in a second after 7 in each of 99: ±√(2·(20·ln(20 ÷ 7.13) + 693·ln(7 ÷ 7.13))) = 3.97.
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

    fn rate(counts: impl IntoIterator<Item = f64>) -> Rate {
        let mut arrivals = Arrivals::default();
        let mut total = 0.0;
        for (second, count) in counts.into_iter().enumerate() {
            total += count;
            arrivals.count(Duration::from_secs(second as u64), total);
        }
        arrivals.rate(3.6).expect("two counts")
    }

    #[test]
    fn memory_is_long_while_nothing_changes_and_short_after_a_change() {
        let steady = rate([10.0; 130]);
        assert_eq!((steady.per_second, steady.window, steady.jump), (10.0, 120.0, 0.0));
        let risen = rate([vec![10.0; 100], vec![40.0; 5]].concat());
        assert_eq!((risen.per_second, risen.window), (40.0, 4.0));
        assert!((risen.jump - 22.5).abs() < 1.0, "{risen:?}");
        assert!(risen.slope > 5.0);
        let fallen = rate([vec![40.0; 100], vec![10.0; 2]].concat());
        assert_eq!((fallen.per_second, fallen.window, fallen.jump), (10.0, 2.0, 0.0));
    }

    #[test]
    fn deviations_are_those_of_poisson_counts() {
        let (second, before) = (Span { seconds: 1.0, arrivals: 20.0 }, Span { seconds: 99.0, arrivals: 693.0 });
        assert!((second.deviations_above(before) - 3.97).abs() < 0.01, "{}", second.deviations_above(before));
        assert!((before.deviations_above(second) + 3.97).abs() < 0.01);
        let none = Span { arrivals: 0.0, ..second };
        assert_eq!(none.deviations_above(none), 0.0);
        // √(2·693·ln(7 ÷ 6.93)).
        assert!((none.deviations_above(before) + 3.73).abs() < 0.01, "{}", none.deviations_above(before));
    }

    #[test]
    fn silence_is_silence_for_two_minutes() {
        let mut arrivals = Arrivals::default();
        for second in 0..=120 {
            assert!(!arrivals.is_silent());
            arrivals.count(Duration::from_secs(second), 7.0);
        }
        assert!(arrivals.is_silent());
        arrivals.count(Duration::from_secs(121), 8.0);
        assert!(!arrivals.is_silent());
    }
}

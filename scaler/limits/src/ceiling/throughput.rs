//! The throughput of a number of replicas while requests wait, with its uncertainty.

use law::observation::Observation;
use law::window::Window;
use std::time::Duration;

/// The shortest time over which throughput is measured.
const LEAST: Duration = Duration::from_secs(8);

/// The longest time over which throughput is measured. A difference that is not certain then stays undecided.
const LONGEST: Duration = Duration::from_secs(60);

/// The number of parts of a measurement. Answers that vary more from part to part than chance explains make the
/// throughput less certain.
const PARTS: u32 = 8;

/// New replicas are a gain if they bring at least this share of the throughput that they should bring.
const GAIN: f64 = 0.25;

/// The normal quantile of 99 %, for the confidence with which a gain is judged.
const CONFIDENCE: f64 = 2.33;

/// The standard deviation, as a share of the mean, of what images cost from one measurement to the next. Without it,
/// slightly larger images would look like replicas that bring nothing.
const DRIFT: f64 = 0.03;

/// The answers since requests wait and the number of ready replicas has not changed.
#[derive(Debug)]
pub(super) struct Saturation {
    replicas: usize,
    /// The time at which this number of replicas was first counted. Earlier answers are those of another number.
    since: Duration,
    /// Times, and cumulative answers.
    answers: Window<(Duration, f64)>,
}

/// The throughput of some ready replicas while requests waited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throughput {
    pub(super) replicas: usize,
    /// Answers per second.
    per_second: f64,
    /// The variance of `per_second`, as a share of its square.
    variance: f64,
    /// The time over which it was measured.
    span: Duration,
}

impl Default for Saturation {
    fn default() -> Self {
        Self { replicas: 0, since: Duration::ZERO, answers: Window::new(LONGEST) }
    }
}

impl Saturation {
    /// Adds an observation. Returns the throughput; `None` until requests have waited for long enough.
    pub(super) fn measure(&mut self, seen: &Observation) -> Option<Throughput> {
        let ready = seen.replicas.ready;
        if ready != self.replicas {
            *self = Self { replicas: ready, since: seen.at + seen.age, ..Self::default() };
        }
        // In a partial observation, the answers to some dispatchers are missing.
        if seen.queue_length < 1.0 || seen.is_partial {
            self.answers = Window::new(LONGEST);
            return None;
        }
        if ready == 0 || seen.at < self.since {
            return None;
        }
        self.answers.push(seen.at, (seen.at, seen.service.count()));
        let &(start, _) = self.answers.oldest()?;
        let span = seen.at - start;
        if span < LEAST {
            return None;
        }
        let times = (0..=PARTS).map(|part| start + span * part / PARTS);
        let counts: Vec<(f64, f64)> = times
            .filter_map(|time| self.answers.at(time).map(|&(_, (then, count))| (then.as_secs_f64(), count)))
            .collect();
        let parts = counts.windows(2).map(|pair| (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1));
        // Figures that come seldom leave some parts without an observation.
        let parts: Vec<(f64, f64)> = parts.filter(|&(seconds, _)| seconds > 0.0).collect();
        Some(Throughput::new(ready, span, &parts))
    }
}

impl Throughput {
    /// The throughput of `replicas` ready replicas. `parts` are the seconds and the answers of each part of `span`.
    fn new(replicas: usize, span: Duration, parts: &[(f64, f64)]) -> Self {
        // Without any answer, the uncertainty is that of a single answer.
        let answers = parts.iter().map(|part| part.1).sum::<f64>().max(1.0);
        let per_second = answers / span.as_secs_f64();
        let squares = parts.iter().map(|(seconds, count)| {
            let expected = per_second * seconds;
            (count - expected).powi(2) / expected
        });
        // The counts of a Poisson process have the variance 1 in these units.
        let dispersion = squares.sum::<f64>() / parts.len().saturating_sub(1).max(1) as f64;
        Self { replicas, per_second, variance: dispersion.max(1.0) / answers, span }
    }

    /// Whether no longer measurement is possible.
    pub(super) fn is_complete(&self) -> bool {
        self.span >= LONGEST
    }

    /// Whether the replicas beyond those of `base` are a gain; `None` while that is not certain.
    pub(super) fn is_gain(&self, base: &Self) -> Option<bool> {
        let ratio = self.per_second / base.per_second;
        let least = 1.0 + GAIN * (self.replicas as f64 / base.replicas as f64 - 1.0);
        let doubt = CONFIDENCE * ratio * (self.variance + base.variance + DRIFT * DRIFT).sqrt();
        ((ratio - least).abs() > doubt).then_some(ratio > least)
    }
}

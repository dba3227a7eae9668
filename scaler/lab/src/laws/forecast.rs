//! `forecast[:INTERVAL[:UTILISATION]]`: a law that predicts the load and provides for the prediction, as the planner of
//! NVIDIA Dynamo does. Every INTERVAL it predicts the requests per second at the time at which replicas that start now
//! have served for one interval. It recommends the predicted rate × work for each request ÷ UTILISATION, rounded up.
//!
//! Source: ai-dynamo/dynamo, components/src/dynamo/planner: core/throughput_scaling.py and core/load/predictors.py,
//! with the defaults of config/defaults.py: throughput_adjustment_interval = 180, min_endpoint = 1. The planner
//! predicts with `constant`, `arima` (the default), `kalman` or `prophet`. This law predicts with the Kalman filter of
//! `linear_trend`. It differs from the planner in this:
//!
//! - The planner divides by the rate at which one engine holds its latency targets, which it takes from profiles or a
//!   regression. Older releases also corrected it by measured ÷ expected latency. This law measures the work for a
//!   request all the time, so it needs no correction. It uses only the share UTILISATION of a replica.
//! - The planner predicts one interval ahead. This law adds the start-up time.

mod linear_trend;

use law::cadence::Cadence;
use law::observation::Observation;
use law::service_times::ServiceMeter;
use law::table::{Law, LawKind, Recommendation};
use linear_trend::LinearTrend;
use std::time::Duration;

/// The entry of the law `forecast` in a table of laws.
pub const KIND: LawKind = LawKind {
    name: "forecast",
    parameter: "[:INTERVAL[:UTILISATION]]",
    wakes: false,
    scales_dispatchers: false,
    make: |_, parameter| {
        let (interval, utilisation) = match parameter {
            None => (ADJUSTMENT_INTERVAL, UTILISATION),
            Some(text) => {
                let (interval, utilisation) = text.split_once(':').map_or((text, None), |(a, b)| (a, Some(b)));
                let utilisation = utilisation.map_or(Some(UTILISATION), |text| text.parse().ok())?;
                (humantime::parse_duration(interval).ok()?, utilisation)
            }
        };
        let is_valid = !interval.is_zero() && utilisation > 0.0 && utilisation <= 1.0;
        is_valid.then(|| Box::new(Forecast::new(interval, utilisation)) as Box<dyn Law>)
    },
};

/// The time between two decisions without a parameter: the planner's `throughput_adjustment_interval`.
const ADJUSTMENT_INTERVAL: Duration = Duration::from_secs(180);

/// The share of a replica's time that the law plans to use without a parameter. It is that of Knative's law: the
/// planner has no such share, since its rate for one engine already leaves room for the latency targets.
const UTILISATION: f64 = 0.7;

/// The fewest replicas that the law recommends: the planner's `min_endpoint`.
const FEWEST: f64 = 1.0;

/// The law `forecast` with its state between decisions.
#[derive(Debug)]
pub struct Forecast {
    interval: Duration,
    /// The share of a replica's time that the law plans to use.
    utilisation: f64,
    cadence: Cadence,
    meter: ServiceMeter,
    /// The time at which the present interval began, and the number of arrivals until then; `None` before the first
    /// observation.
    began: Option<(Duration, f64)>,
    /// The requests of each interval; `None` before the first request.
    trend: Option<LinearTrend>,
}

impl Forecast {
    /// A law that decides every `interval` and plans to use the share `utilisation` of each replica, above 0 and at
    /// most 1.
    pub fn new(interval: Duration, utilisation: f64) -> Self {
        Self {
            interval,
            utilisation,
            cadence: Cadence::new(interval),
            meter: ServiceMeter::default(),
            began: None,
            trend: None,
        }
    }
}

impl Law for Forecast {
    fn decide(&mut self, seen: &Observation) -> Recommendation {
        let work = self.meter.learn(seen).work;
        let (began, before) = *self.began.get_or_insert((seen.at, seen.arrivals));
        if !self.cadence.is_due(seen.at) {
            return Recommendation::waiting();
        }
        self.began = Some((seen.at, seen.arrivals));
        let (seconds, requests) = ((seen.at - began).as_secs_f64(), seen.arrivals - before);
        match &mut self.trend {
            Some(trend) => trend.observe(requests),
            // Like the planner, the law ignores the time before the first request. It would be seen as a steep rise.
            None => self.trend = (requests > 0.0).then(|| LinearTrend::new(requests)),
        }
        let intervals_ahead = 1.0 + seen.startup.unwrap_or_default().div_duration_f64(self.interval);
        let predicted = self.trend.as_ref().map_or(0.0, |trend| trend.predict(intervals_ahead)) / seconds;
        let recommended = (predicted * work / self.utilisation).ceil().max(FEWEST);
        let text = format!("{predicted:.1} requests/s predicted, {:.1} measured", requests / seconds);
        Recommendation::new(Some(recommended as usize), "forecast", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recommendations for intervals of 10 s with these arrivals. A request is 50 ms of work, as is assumed before
    /// an answer was measured, and half of each replica is used.
    fn recommended(arrivals: &[f64], startup: u64) -> Vec<Option<usize>> {
        let mut law = Forecast::new(Duration::from_secs(10), 0.5);
        let mut total = 0.0;
        let mut decide = |(index, arrivals): (usize, &f64)| {
            total += arrivals;
            let at = Duration::from_secs(10 * index as u64);
            let startup = Some(Duration::from_secs(startup));
            law.decide(&Observation { at, arrivals: total, startup, ..Observation::default() }).replicas
        };
        // The counter starts at 7, which were no arrivals of the first interval.
        [7.0].iter().chain(arrivals).enumerate().map(&mut decide).collect()
    }

    #[test]
    fn replicas_serve_the_load_that_the_trend_predicts_for_the_next_interval() {
        for (arrivals, startup, expected) in [
            // 20 requests/s × 50 ms ÷ 0.5.
            ([200.0, 200.0, 200.0, 200.0].as_slice(), 0, [Some(2), Some(2), Some(2), Some(2)].as_slice()),
            // A level of 399 and a slope of 99.5: 49.8 requests/s after one interval, and 59.8 after two.
            (&[200.0, 400.0], 0, &[Some(2), Some(5)]),
            (&[200.0, 400.0], 10, &[Some(2), Some(6)]),
            (&[0.0, 0.0, 200.0, 400.0], 0, &[Some(1), Some(1), Some(2), Some(5)]),
            // The trend leads below 0 requests/s.
            (&[600.0, 200.0, 0.0], 0, &[Some(6), Some(1), Some(1)]),
        ] {
            let found = recommended(arrivals, startup);
            assert_eq!((found[0], &found[1..]), (None, expected), "{arrivals:?} with a start-up of {startup} s");
        }
    }
}

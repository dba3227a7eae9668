//! Workloads: the number of requests in each second, from a file or from a shape, and the time of each request. Knows
//! nothing of how requests are sent or served.
//!
//! A workload file holds numbers separated by white space, one number for each second: `7 6 7 8 …`. It may also be a
//! list, a table in CSV or a trace of functions; see [`mod@file`]. `#` starts a comment that ends with the line.

pub mod arrivals;
mod cells;
mod error;
pub mod file;
pub mod format;
mod functions;
mod lines;
mod numbers;
pub mod shape;
pub mod stages;
mod table;
mod timestamp;
pub mod unit;

pub use error::{Error, Reason};

use file::ReadOptions;

use std::str::FromStr;
use std::time::Duration;

/// The largest number of requests in one second. No machine sends more, so a larger number must be a typing error.
pub const MAX_PER_SECOND: f64 = 1e6;

/// The length of the longest workload, in seconds: a week. A longer workload must be a mistake.
pub const MAX_SECONDS: usize = 7 * 24 * 3600;

/// The offered load in each second.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The requests per second in each second. They may have fractions.
    pub per_second: Vec<f64>,
}

impl FromStr for Workload {
    type Err = Error;

    /// Reads a workload in any format; see [`file::read`].
    fn from_str(text: &str) -> Result<Self, Error> {
        file::read(text.as_bytes(), &ReadOptions::default()).map(|file| file.workload)
    }
}

impl Workload {
    /// A workload with `rate` requests per second in every second of `duration`. `duration` is rounded up to whole
    /// seconds.
    pub fn constant(rate: f64, duration: Duration) -> Self {
        Self { per_second: vec![rate; duration.as_secs_f64().ceil() as usize] }
    }

    /// This workload with every rate multiplied by `factor`.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        self.per_second.iter_mut().for_each(|rate| *rate *= factor);
        self
    }

    /// The first part of this workload, of the length `duration`. `duration` is rounded up to whole seconds.
    #[must_use]
    pub fn first(mut self, duration: Duration) -> Self {
        self.per_second.truncate(duration.as_secs_f64().ceil() as usize);
        self
    }

    /// This workload stretched in time by `factor`. The rates stay. The length and the number of requests are
    /// multiplied by `factor`: with 0.5, an hour becomes half an hour. A new second that covers parts of several old
    /// seconds gets their mean rate. If the end of the workload lies within the last new second, that second gets a
    /// proportionally lower rate.
    #[must_use]
    pub fn stretched(self, factor: f64) -> Self {
        let old = &self.per_second;
        let end = old.len() as f64;
        let rate = |second: usize| {
            let from = second as f64 / factor;
            let to = ((second + 1) as f64 / factor).min(end);
            let overlap = |index: usize| (to.min((index + 1) as f64) - from.max(index as f64)).max(0.0);
            let touched = from as usize..(to.ceil() as usize).min(old.len());
            factor * touched.map(|index| old[index] * overlap(index)).sum::<f64>()
        };
        // The billionth is subtracted so that a rounding error does not add a second.
        let seconds = (end * factor - 1e-9).ceil().max(1.0) as usize;
        Self { per_second: (0..seconds).map(rate).collect() }
    }

    /// This workload, repeated `times` times in succession.
    #[must_use]
    pub fn repeated(self, times: usize) -> Self {
        Self { per_second: self.per_second.repeat(times) }
    }

    /// The expected number of requests in the whole workload.
    pub fn total(&self) -> f64 {
        self.per_second.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_separated_by_any_white_space_and_comments() {
        let parsed = "7 6\t0\r\n# a comment\n\n  12 # more\n".parse::<Workload>().expect("the workload is valid");
        assert_eq!(parsed.per_second, [7.0, 6.0, 0.0, 12.0]);
        assert_eq!(parsed.clone().scaled(0.5).total(), 12.5);
        assert_eq!(parsed.first(Duration::from_millis(1500)).per_second, [7.0, 6.0]);
    }

    #[test]
    fn stretching_keeps_rates_and_scales_the_number_of_requests() {
        let stretched = |factor| Workload { per_second: vec![2.0, 4.0, 9.0] }.stretched(factor).per_second;
        assert_eq!(stretched(2.0), [2.0, 2.0, 4.0, 4.0, 9.0, 9.0]);
        assert_eq!(stretched(1.0), [2.0, 4.0, 9.0]);
        // The result is 1.5 s long. The second half of its last second has no load, so the rate 9 is halved.
        assert_eq!(stretched(0.5), [3.0, 4.5]);
        let tiny = stretched(0.001);
        assert!(tiny.len() == 1 && (tiny[0] - 0.015).abs() < 1e-9, "{tiny:?}");
        for factor in [0.1, 0.3, 0.7, 1.3, 3.1] {
            let total = stretched(factor).iter().sum::<f64>();
            assert!((total - 15.0 * factor).abs() < 1e-9, "{factor}: {total}");
        }
        assert_eq!(Workload { per_second: vec![1.0, 2.0] }.repeated(2).per_second, [1.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn the_workloads_of_this_repository_can_be_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../loadgen/workloads");
        let files = std::fs::read_dir(folder)
            .expect("the folder exists")
            .map(|entry| entry.expect("the entry can be read").path());
        let texts = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
        let mut lengths: Vec<(String, usize, f64)> = texts
            .map(|path| {
                let text = std::fs::read_to_string(&path).expect("the file is text");
                let workload = text.parse::<Workload>().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (name, workload.per_second.len(), workload.total())
            })
            .collect();
        lengths.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("burst.txt", 80, 3500.0),
            ("course.txt", 630, 9917.0),
            ("experiment.txt", 180, 11_425.0),
            ("surge.txt", 150, 10_475.0),
            ("surges.txt", 150, 16_800.0),
        ];
        assert_eq!(lengths, expected.map(|(name, seconds, requests)| (name.to_owned(), seconds, requests)));
    }
}

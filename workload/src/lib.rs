//! Workloads: the number of requests in each second, from a file or from a shape, and the time of each request. Knows
//! nothing of how requests are sent or served.
//!
//! A workload file holds whole numbers separated by white space, one number for each second: `7 6 7 8 …`. `#` starts a
//! comment that ends with the line.

pub mod arrivals;
pub mod shape;

use std::str::FromStr;
use std::time::Duration;

/// The largest number of requests in one second. No machine sends more, so a larger number must be a typing error.
pub const MAX_PER_SECOND: f64 = 1e6;

/// The length of the longest workload, in seconds: a week. A longer workload must be a mistake.
pub const MAX_SECONDS: usize = 7 * 24 * 3600;

/// The offered load in each second.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The requests per second in each second. The numbers are whole in a file. After scaling they may have fractions.
    pub per_second: Vec<f64>,
}

/// The reason why a text is not a workload.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A word is no whole number, or the number is larger than [`MAX_PER_SECOND`].
    #[error("line {line}, column {column}: {word:?} is no number of requests; write a whole number from 0 to 1000000")]
    Number {
        /// The number of the line, from 1.
        line: usize,
        /// The position of the word's first character in the line, in characters from 1.
        column: usize,
        /// The first 40 characters of the word.
        word: String,
    },
    /// The text has no number.
    #[error("the workload has no number; write the requests of each second, such as 5 5 20 20 5")]
    Empty,
    /// The text has more than [`MAX_SECONDS`] numbers.
    #[error("the workload has more than 604800 numbers, one for each second of a week; shorten it")]
    Long,
}

impl FromStr for Workload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut per_second = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let numbers = line.split('#').next().unwrap_or_default();
            for word in numbers.split_whitespace() {
                match word.parse::<u32>().map(f64::from) {
                    Ok(rate) if rate <= MAX_PER_SECOND => per_second.push(rate),
                    _ => {
                        let before = word.as_ptr().addr() - line.as_ptr().addr();
                        let column = line[..before].chars().count() + 1;
                        return Err(Error::Number { line: index + 1, column, word: word.chars().take(40).collect() });
                    }
                }
            }
        }
        match per_second.len() {
            0 => Err(Error::Empty),
            1..=MAX_SECONDS => Ok(Self { per_second }),
            _ => Err(Error::Long),
        }
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

    #[test]
    fn errors_give_the_line_and_the_column() {
        let error = |text: &str| text.parse::<Workload>().expect_err("the text is invalid");
        for (text, line, column) in
            [("5 x", 1, 3), ("5\n6 -7", 2, 3), ("1.5", 1, 1), ("5 1000001", 1, 3), ("é 5", 1, 1)]
        {
            let Error::Number { line: at_line, column: at_column, .. } = error(text) else { panic!("{text}") };
            assert_eq!((at_line, at_column), (line, column), "{text:?}");
        }
        assert_eq!(error(""), Error::Empty);
        assert_eq!(error("# nothing\n"), Error::Empty);
        assert_eq!(error(&"1 ".repeat(MAX_SECONDS + 1)), Error::Long);
    }
}

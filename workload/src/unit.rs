//! The unit of time of the numbers in a file. Pure.

use crate::error::Error;
use crate::{MAX_PER_SECOND, MAX_SECONDS};

/// The time that one number of a file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number is the requests of one second.
    Second,
    /// A number is the requests of one minute, which are spread evenly over its seconds.
    Minute,
}

impl Unit {
    /// The length of the unit, in seconds.
    pub(crate) const fn seconds(self) -> usize {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
        }
    }

    /// The largest number of requests in this unit.
    pub(crate) const fn max(self) -> f64 {
        MAX_PER_SECOND * self.seconds() as f64
    }

    /// The number of requests that `word` is; `None` if it is none, or larger than [`Unit::max`].
    pub(crate) fn parse(self, word: &str) -> Option<f64> {
        // Most numbers are whole, and a whole number is parsed several times faster.
        let number = word.parse::<u32>().map(f64::from).or_else(|_| word.parse::<f64>()).ok()?;
        ((0.0..=self.max()).contains(&number) && number.is_sign_positive()).then_some(number)
    }

    /// The rate of `requests` in this unit, in requests per second.
    pub(crate) fn rate(self, requests: f64) -> f64 {
        requests / self.seconds() as f64
    }

    /// Appends the rate of `requests` for each second of one unit.
    ///
    /// # Errors
    /// [`Error::Long`] if the workload then has more than [`MAX_SECONDS`].
    pub(crate) fn append(self, requests: f64, per_second: &mut Vec<f64>) -> Result<(), Error> {
        if per_second.len() + self.seconds() > MAX_SECONDS {
            return Err(Error::Long);
        }
        per_second.extend(std::iter::repeat_n(self.rate(requests), self.seconds()));
        Ok(())
    }
}

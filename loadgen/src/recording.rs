//! The records of the requests of one load. A run keeps its figures, its timeline, its slowest requests and its log; a
//! search for the capacity keeps the figures of its windows.

use crate::request_log::RequestLog;
use crate::sample::Sample;
use crate::slowest::Slowest;
use crate::tally::Tally;
use crate::timeline::{SecondFigures, Timeline};
use anyhow::Result;
use std::time::Duration;

/// Time after its timeout within which a request has surely ended, and its sample was read.
pub const END_GRACE: Duration = Duration::from_secs(5);

/// Records the requests of a load. All times count from the end of the warm-up, whose requests are not recorded.
pub trait Record {
    /// Records a request that has ended.
    fn record(&mut self, sample: &Sample);

    /// Notes that the time is `now`. Only requests in flight may still end of those that were scheduled before.
    fn advance(&mut self, now: Duration);

    /// Notes that the user stopped the run at `end`.
    fn stop(&mut self, end: Duration);
}

/// The records of one run.
pub struct RunRecording {
    /// The figures of the whole run.
    pub tally: Tally,
    /// The figures of each second.
    pub seconds: Timeline,
    /// The figures of each row of `--table`; `None` without `--table`.
    pub table: Option<Timeline>,
    /// The slowest requests.
    pub slowest: Slowest,
    /// The file of `--log`; `None` without `--log`.
    log: Option<RequestLog>,
    timeout: Duration,
}

impl RunRecording {
    /// The records of a run of `length` before its start. `table` is the number of seconds in each row of `--table`.
    /// Every request ends within `timeout`.
    pub fn new(
        objective: Duration,
        length: Duration,
        table: Option<u32>,
        log: Option<RequestLog>,
        timeout: Duration,
    ) -> Self {
        Self {
            tally: Tally::new(objective, length),
            seconds: Timeline::new(objective, 1),
            table: table.map(|step| Timeline::new(objective, step as usize)),
            slowest: Slowest::default(),
            log,
            timeout,
        }
    }

    /// Adds the figures of a second of a worker's part.
    pub fn add_second(&mut self, part: &SecondFigures) {
        for timeline in std::iter::once(&mut self.seconds).chain(&mut self.table) {
            timeline.add(part);
        }
    }

    /// Writes the rest of the log.
    ///
    /// # Errors
    /// If the log could not be written; the message names the file.
    pub fn finish_log(&mut self) -> Result<()> {
        self.log.take().map_or(Ok(()), RequestLog::finish)
    }
}

impl Record for RunRecording {
    fn record(&mut self, sample: &Sample) {
        self.tally.record(sample);
        self.slowest.record(sample);
        for timeline in std::iter::once(&mut self.seconds).chain(&mut self.table) {
            timeline.record(sample);
        }
        if let Some(log) = &mut self.log {
            log.record(sample);
        }
    }

    fn advance(&mut self, now: Duration) {
        let ended = now.saturating_sub(self.timeout + END_GRACE);
        for timeline in std::iter::once(&mut self.seconds).chain(&mut self.table) {
            timeline.close_before(ended);
        }
    }

    fn stop(&mut self, end: Duration) {
        self.tally.stop(end);
    }
}

/// The figures of the consecutive windows of a load.
pub struct WindowRecording {
    /// The figures of each window.
    pub windows: Vec<Tally>,
    /// Length of a window.
    length: Duration,
}

impl WindowRecording {
    /// The records of `count` windows of `length` each, before the start of the load.
    pub fn new(objective: Duration, length: Duration, count: u32) -> Self {
        Self { windows: vec![Tally::new(objective, length); count as usize], length }
    }
}

impl Record for WindowRecording {
    fn record(&mut self, sample: &Sample) {
        let window = (sample.scheduled.as_nanos() / self.length.as_nanos().max(1)) as usize;
        let from = self.length * window as u32;
        if let Some(tally) = self.windows.get_mut(window) {
            tally.record(&Sample { scheduled: sample.scheduled - from, ..sample.clone() });
        }
    }

    fn advance(&mut self, _now: Duration) {}

    fn stop(&mut self, _end: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, failed, sample};

    #[test]
    fn each_window_counts_its_own_requests() {
        let mut recording = WindowRecording::new(Duration::from_millis(500), Duration::from_secs(2), 3);
        for (scheduled, outcome) in [(0, ANSWERED), (1999, failed("x")), (2000, ANSWERED), (6001, ANSWERED)] {
            recording.record(&sample(scheduled, 10, outcome));
        }
        let counts = recording.windows.iter().map(|tally| tally.summary(None));
        let counts: Vec<_> = counts.map(|summary| (summary.offered, summary.failed)).collect();
        assert_eq!(counts, [(2, 1), (1, 0), (0, 0)]);
    }

    #[test]
    fn the_seconds_of_a_long_run_are_closed_while_it_lasts() {
        let timeout = Duration::from_secs(30);
        let mut recording =
            RunRecording::new(Duration::from_millis(500), Duration::from_secs(60), Some(10), None, timeout);
        recording.record(&sample(500, 10, ANSWERED));
        recording.advance(Duration::from_secs(36));
        recording.record(&sample(600, 20, ANSWERED));
        recording.stop(Duration::from_secs(2));
        let seconds = recording.seconds.finish(Duration::from_secs(2));
        assert_eq!((seconds.len(), seconds[0].offered), (2, 2));
        assert!(seconds[0].latency_ms.is_some_and(|latency| latency.max < 11.0), "the first second was closed");
        let table = recording.table.expect("asked for").finish(Duration::from_secs(2));
        assert!(table[0].latency_ms.is_some_and(|latency| latency.max > 19.0), "the row of ten seconds was open");
    }
}

//! The records of a worker's part. The figures of each second are sent once they are complete, so the memory of the
//! worker does not grow with the length of the load.

use crate::recording::{END_GRACE, Record};
use crate::sample::Sample;
use crate::slowest::Slowest;
use crate::tally::Tally;
use crate::workers::message::WorkerLine;
use crate::workers::part_seconds::PartSeconds;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// The records of a part.
pub struct PartRecording {
    /// The figures of the whole part.
    pub tally: Tally,
    /// The slowest requests.
    pub slowest: Slowest,
    /// The figures of the seconds that were not sent yet.
    pub seconds: PartSeconds,
    lines: mpsc::Sender<Bytes>,
    timeout: Duration,
}

impl PartRecording {
    /// The records of a part of `length` before its start. Every request ends within `timeout`. `lines` go to the
    /// coordinator.
    pub fn new(objective: Duration, length: Duration, timeout: Duration, lines: mpsc::Sender<Bytes>) -> Self {
        Self {
            tally: Tally::new(objective, length),
            slowest: Slowest::default(),
            seconds: PartSeconds::new(objective),
            lines,
            timeout,
        }
    }
}

impl Record for PartRecording {
    fn record(&mut self, sample: &Sample) {
        self.tally.record(sample);
        self.slowest.record(sample);
        self.seconds.record(sample);
    }

    fn advance(&mut self, now: Duration) {
        let ended = now.saturating_sub(self.timeout + END_GRACE);
        // A second that finds no room in the channel is sent later.
        while let Ok(room) = self.lines.try_reserve() {
            let Some(second) = self.seconds.take_before(ended) else { return };
            room.send(WorkerLine::Second(Box::new(second)).to_bytes());
        }
    }

    fn stop(&mut self, end: Duration) {
        self.tally.stop(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, sample};

    #[test]
    fn complete_seconds_are_sent_and_wait_for_room() {
        let (sender, mut lines) = mpsc::channel(1);
        let objective = Duration::from_millis(500);
        let mut recording = PartRecording::new(objective, Duration::from_secs(60), Duration::from_secs(1), sender);
        for scheduled in [100, 1200, 2300] {
            recording.record(&sample(scheduled, 10, ANSWERED));
        }
        recording.advance(Duration::from_millis(6900));
        assert!(lines.try_recv().is_err(), "the first second may still have answers");
        let mut sent = Vec::new();
        for _ in 0..3 {
            recording.advance(Duration::from_secs(8));
            if let Ok(line) = lines.try_recv() {
                match serde_json::from_slice(&line) {
                    Ok(WorkerLine::Second(second)) => sent.push((second.second, second.offered)),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(sent, [(0, 1), (1, 1)]);
        assert_eq!(recording.seconds.take_before(Duration::MAX).map(|second| second.second), Some(2));
    }
}

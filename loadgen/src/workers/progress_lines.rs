//! The display of a worker: a line to the coordinator each second, instead of a screen.

use crate::display::UserInput;
use crate::progress::{Progress, ProgressReport, Reported};
use crate::workers::message::WorkerLine;
use bytes::Bytes;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest time in which the coordinator takes no line. Its load is stopped then, since its figures would be lost.
const STALL: Duration = Duration::from_secs(30);

/// Sends the progress of a part to the coordinator.
pub struct ProgressLines {
    lines: mpsc::Sender<Bytes>,
    /// The part of the progress that was sent.
    reported: Reported,
    sent_at: Instant,
}

impl ProgressLines {
    /// Nothing was sent yet.
    pub fn new(lines: mpsc::Sender<Bytes>) -> Self {
        Self { lines, reported: Reported::default(), sent_at: Instant::now() }
    }

    /// Sends the progress since the last line, if a line is due. Asks for a stop if the coordinator takes no lines.
    pub fn show(&mut self, progress: &Progress) -> UserInput {
        if self.sent_at.elapsed() < INTERVAL {
            return UserInput::Nothing;
        }
        match self.lines.try_reserve() {
            Ok(room) => {
                let report: ProgressReport = progress.report(&mut self.reported);
                room.send(WorkerLine::Progress(Box::new(report)).to_bytes());
                self.sent_at = Instant::now();
                UserInput::Nothing
            }
            Err(_full_or_closed) if self.sent_at.elapsed() > STALL => UserInput::Stop,
            Err(_full_or_closed) => UserInput::Nothing,
        }
    }
}

//! Shows the progress of a run while it lasts: on a live screen, by a line every five seconds, or not at all.

mod screen;

use crate::latencies::format_ms;
use crate::progress::{self, Progress};
use crate::workers::progress_lines::ProgressLines;
use screen::Screen;
use std::io::IsTerminal;
use std::time::Duration;

/// Time between two lines of [`DisplayMode::Lines`].
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The ways to show the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisplayMode {
    /// A live screen that fills the terminal.
    Screen,
    /// A line every five seconds on standard error.
    Lines,
    /// Nothing is shown.
    Quiet,
}

impl DisplayMode {
    /// The mode for the flags `--quiet` and `--no-tui`. Without these flags, the screen if standard input and standard
    /// error are a terminal, and no display otherwise.
    pub fn choose(quiet: bool, no_tui: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && std::io::stdin().is_terminal();
        match (quiet, no_tui) {
            (true, _) => Self::Quiet,
            (_, true) => Self::Lines,
            _ if is_terminal => Self::Screen,
            _ => Self::Quiet,
        }
    }
}

/// The properties of a run that a display shows.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// The load and the URL, in words.
    pub title: String,
    /// Planned length of the run, including the warm-up.
    pub length: Duration,
    /// The objective: the time within which requests should be answered.
    pub objective: Duration,
}

/// The effect of the keys that the user has pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserInput {
    /// Stop the run: the user has pressed q or Ctrl-C.
    Stop,
    /// Continue: the user has pressed neither q nor Ctrl-C.
    Nothing,
}

/// An open display. Dropping it restores the terminal.
pub enum Display {
    /// A live screen that fills the terminal.
    Screen(Box<Screen>),
    /// A line every five seconds on standard error.
    Lines {
        /// Time since the start of the run at which the next line is due.
        next: Duration,
    },
    /// Lines to the coordinator of a distributed load.
    Coordinator(Box<ProgressLines>),
    /// Nothing is shown.
    Quiet,
}

impl Display {
    /// Opens a display. If the terminal cannot show a screen, lines are shown instead.
    pub fn open(mode: DisplayMode) -> Self {
        let lines = Self::Lines { next: LINE_INTERVAL };
        match mode {
            DisplayMode::Quiet => Self::Quiet,
            DisplayMode::Lines => lines,
            DisplayMode::Screen => Screen::open().map_or(lines, |screen| Self::Screen(Box::new(screen))),
        }
    }

    /// Shows the progress at `now`, the time since the start of the run. Returns the input since the last call.
    pub fn show(&mut self, info: &RunInfo, progress: &Progress, now: Duration) -> UserInput {
        match self {
            Self::Screen(screen) => screen.show(info, progress, now),
            Self::Lines { next } => {
                // The time has gone back, so another load has begun on this display. Its first line would be late
                // otherwise.
                if now + LINE_INTERVAL < *next {
                    *next = LINE_INTERVAL;
                }
                if now >= *next {
                    *next = now + LINE_INTERVAL;
                    eprintln!("{}", line(info, progress, now));
                }
                UserInput::Nothing
            }
            Self::Coordinator(lines) => lines.show(progress),
            Self::Quiet => UserInput::Nothing,
        }
    }
}

/// The progress in one line.
fn line(info: &RunInfo, progress: &Progress, now: Duration) -> String {
    let latency = progress.percentiles();
    let mut line = format!(
        "{:>4} of {:.0} s  {}/s, {} in flight, p50 {}, p95 {}, {} within {:.0} ms, {} failed",
        now.as_secs(),
        info.length.as_secs_f64(),
        progress.rate(),
        progress.in_flight,
        format_ms(latency.map(|latency| latency.p50)),
        format_ms(latency.map(|latency| latency.p95)),
        attainment(progress),
        info.objective.as_secs_f64() * 1e3,
        progress.failed
    );
    if let Some(metrics) = progress.server_metrics {
        for (name, value) in [("queue", metrics.queue_length), ("replicas", metrics.replicas)] {
            if let Some(value) = value {
                line.push_str(&format!(", {name} {value:.0}"));
            }
        }
    }
    line
}

/// The attainment so far, with its unit. A dash as long as no request after the warm-up has ended.
fn attainment(progress: &Progress) -> String {
    progress.attainment_percent().map_or_else(|| "– %".to_owned(), |percent| format!("{percent:.2} %"))
}

/// The part of the run that the percentiles of a display cover, in words.
fn window() -> String {
    format!("last {} s", progress::RECENT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_five_seconds_of_each_load() {
        let info =
            RunInfo { title: String::new(), length: Duration::from_secs(16), objective: Duration::from_millis(500) };
        let mut display = Display::Lines { next: LINE_INTERVAL };
        let mut due = Vec::new();
        for second in (1..=16).chain(1..=16) {
            display.show(&info, &Progress::default(), Duration::from_secs(second));
            if let Display::Lines { next } = display
                && next == Duration::from_secs(second) + LINE_INTERVAL
            {
                due.push(second);
            }
        }
        assert_eq!(due, [5, 10, 15, 5, 10, 15]);
    }
}

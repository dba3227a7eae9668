//! What a run shows while it lasts: a screen, a line now and then, or nothing.

mod screen;

use crate::latencies::ms;
use crate::tally::{self, Tally};
use screen::Screen;
use std::io::IsTerminal;
use std::time::Duration;

/// Between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The whole terminal.
    Screen,
    /// A line now and then on standard error.
    Lines,
    /// Nothing.
    Quiet,
}

impl Style {
    /// The screen where there is one.
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

/// What is shown beside the tally.
#[derive(Debug, Clone)]
pub struct Title {
    /// What is sent where.
    pub text: String,
    /// Of the schedule, from the start of the warm-up.
    pub length: Duration,
    /// Answers are to be there within this time.
    pub objective: Duration,
}

/// A display in use. Dropping it leaves the terminal as it was.
pub enum Display {
    /// The whole terminal.
    Screen(Box<Screen>),
    /// A line now and then.
    Lines {
        /// When the next is due.
        next: Duration,
    },
    /// Nothing.
    Quiet,
}

impl Display {
    /// Takes what the style needs; a terminal that has no screen gets lines.
    pub fn open(style: Style) -> Self {
        let lines = Self::Lines { next: LINE_INTERVAL };
        match style {
            Style::Quiet => Self::Quiet,
            Style::Lines => lines,
            Style::Screen => Screen::open().map_or(lines, |screen| Self::Screen(Box::new(screen))),
        }
    }

    /// Shows how it goes at `now`; whether somebody pressed a key that means stop.
    pub fn show(&mut self, title: &Title, tally: &Tally, now: Duration) -> bool {
        match self {
            Self::Screen(screen) => screen.show(title, tally, now),
            Self::Lines { next } => {
                // Another load has begun.
                if now + LINE_INTERVAL < *next {
                    *next = LINE_INTERVAL;
                }
                if now >= *next {
                    *next = now + LINE_INTERVAL;
                    eprintln!("{}", line(title, tally, now));
                }
                false
            }
            Self::Quiet => false,
        }
    }
}

/// How it goes, in one line.
fn line(title: &Title, tally: &Tally, now: Duration) -> String {
    let latency = tally.percentiles();
    let mut line = format!(
        "{:>4} of {:.0} s  {}/s, {} in flight, p50 {}, p95 {}, {:.2} % within {:.0} ms, {} failed",
        now.as_secs(),
        title.length.as_secs_f64(),
        tally.rate(),
        tally.in_flight,
        ms(latency.map(|latency| latency.p50)),
        ms(latency.map(|latency| latency.p95)),
        tally.attainment(),
        title.objective.as_secs_f64() * 1e3,
        tally.failed()
    );
    if let Some(glimpse) = tally.glimpse {
        for (name, value) in [("queue", glimpse.queue_length), ("replicas", glimpse.replicas)] {
            if let Some(value) = value {
                line.push_str(&format!(", {name} {value:.0}"));
            }
        }
    }
    line
}

/// What the percentiles of a display are of.
fn window() -> String {
    format!("last {} s", tally::RECENT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_five_seconds_of_each_load() {
        let title =
            Title { text: String::new(), length: Duration::from_secs(16), objective: Duration::from_millis(500) };
        let mut display = Display::Lines { next: LINE_INTERVAL };
        let mut due = Vec::new();
        for second in (1..=16).chain(1..=16) {
            display.show(&title, &Tally::default(), Duration::from_secs(second));
            if let Display::Lines { next } = display
                && next == Duration::from_secs(second) + LINE_INTERVAL
            {
                due.push(second);
            }
        }
        assert_eq!(due, [5, 10, 15, 5, 10, 15]);
    }
}

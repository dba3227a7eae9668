//! The live screen.

use super::{Title, window};
use crate::latencies::ms;
use crate::tally::{Second, Tally};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal};
use std::io::{self, Stderr};
use std::time::Duration;

/// The terminal while a run has it. Standard output stays free for what the run prints.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        let opened = execute!(io::stderr(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stderr())));
        match opened {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                disable_raw_mode()?;
                Err(error)
            }
        }
    }

    /// Draws; whether a key was pressed that means stop.
    pub(super) fn show(&mut self, title: &Title, tally: &Tally, now: Duration) -> bool {
        // A terminal that is gone is no reason to end a run.
        let _drawn = self.terminal.draw(|frame| draw(frame, title, tally, now));
        pressed_stop()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _left = execute!(io::stderr(), LeaveAlternateScreen);
        let _cooked = disable_raw_mode();
    }
}

/// Reads the keys that are there. A terminal in raw mode makes no signal of Ctrl-C.
fn pressed_stop() -> bool {
    let mut stop = false;
    while event::poll(Duration::ZERO).unwrap_or(false) {
        if let Ok(Event::Key(key)) = event::read() {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            stop |= key.code == KeyCode::Char('q') || control && key.code == KeyCode::Char('c');
        }
    }
    stop
}

fn draw(frame: &mut Frame, title: &Title, tally: &Tally, now: Duration) {
    let [head, figures, plots, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Length(6), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    let length = title.length.as_secs_f64().max(f64::MIN_POSITIVE);
    let progress = Gauge::default()
        .block(Block::bordered().title(format!(" {} ", title.text)))
        .gauge_style(Color::Blue)
        .ratio((now.as_secs_f64() / length).clamp(0.0, 1.0))
        .label(format!("{} of {length:.0} s", now.as_secs()));
    frame.render_widget(progress, head);
    let [load, latency, errors] = Layout::horizontal([Constraint::Fill(1); 3]).areas(figures);
    frame.render_widget(block(" load ", load_lines(tally)), load);
    let objective_ms = title.objective.as_secs_f64() * 1e3;
    frame.render_widget(block(&format!(" latency, {} ", window()), latency_lines(tally, objective_ms)), latency);
    frame.render_widget(block(" failed ", error_lines(tally)), errors);
    history(frame, plots, tally, objective_ms);
    frame.render_widget(Line::from("q or Ctrl-C: stop and report what there is").dim(), foot);
}

fn block(title: &str, lines: Vec<Line<'static>>) -> Paragraph<'static> {
    Paragraph::new(lines).block(Block::bordered().title(title.to_owned()))
}

fn figure(name: &'static str, value: String) -> Line<'static> {
    Line::from(vec![Span::from(format!("{name:<12}")).dim(), Span::from(value).bold()])
}

fn load_lines(tally: &Tally) -> Vec<Line<'static>> {
    let seen = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"));
    let glimpse = tally.glimpse;
    vec![
        figure("sent", format!("{}/s", tally.rate())),
        figure("in flight", tally.in_flight.to_string()),
        figure("queue", seen(glimpse.and_then(|glimpse| glimpse.queue_length))),
        figure("replicas", seen(glimpse.and_then(|glimpse| glimpse.replicas))),
    ]
}

fn latency_lines(tally: &Tally, objective_ms: f64) -> Vec<Line<'static>> {
    let latency = tally.percentiles();
    vec![
        figure("p50", ms(latency.map(|latency| latency.p50))),
        figure("p95", ms(latency.map(|latency| latency.p95))),
        figure("p99", ms(latency.map(|latency| latency.p99))),
        figure("in time", format!("{:.2} % within {objective_ms:.0} ms", tally.attainment())),
    ]
}

fn error_lines(tally: &Tally) -> Vec<Line<'static>> {
    let mut counts: Vec<(&String, &usize)> = tally.errors.iter().collect();
    counts.sort_by(|a, b| b.1.cmp(a.1));
    let mut lines = vec![figure("requests", format!("{} of {}", tally.failed(), tally.ended))];
    lines.extend(counts.iter().take(3).map(|(code, count)| Line::from(format!("{count} × {code}")).red()));
    lines
}

/// The last seconds, as many as there is room for.
fn history(frame: &mut Frame, area: Rect, tally: &Tally, objective_ms: f64) {
    type Pick = fn(&Second) -> f64;
    let plots: [(&str, &str, Pick, Color); 4] = [
        ("sent", "/s", |second| second.sent as f64, Color::Blue),
        ("p95", " ms", |second| second.p95_ms, Color::Yellow),
        ("queue", "", |second| second.queue_length, Color::Cyan),
        ("replicas", "", |second| second.replicas, Color::Magenta),
    ];
    let areas = Layout::vertical([Constraint::Fill(1); 4]).split(area);
    for ((name, unit, pick, color), &area) in plots.into_iter().zip(areas.iter()) {
        let room = usize::from(area.width.saturating_sub(2));
        let from = tally.seconds.len().saturating_sub(room);
        let values: Vec<f64> = tally.seconds[from..].iter().map(pick).collect();
        let highest = values.iter().copied().fold(0.0, f64::max);
        let missed = name == "p95" && highest > objective_ms;
        let title = Line::from(format!(" {name}, highest {highest:.0}{unit} "));
        let spark = Sparkline::default()
            .block(Block::bordered().title(if missed { title.red() } else { title }))
            // Whole numbers are drawn, so small ones are enlarged.
            .data(values.iter().map(|value| (value * 100.0) as u64))
            .style(Style::from(color));
        frame.render_widget(spark, area);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Outcome, Sample};
    use crate::watch::Glimpse;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_screen_tells_how_the_run_goes() {
        let title = Title {
            text: "burst.txt to http://127.0.0.1:5052/predict".into(),
            length: Duration::from_secs(60),
            objective: Duration::from_millis(500),
        };
        let mut tally = Tally::default();
        for second in 0..30 {
            let outcome = match second % 10 {
                9 => Outcome::Failed { code: "queue_full".into() },
                _ => Outcome::Answered { right: Some(true) },
            };
            let sample = Sample {
                scheduled: Duration::from_secs(second),
                send_delay: Duration::ZERO,
                latency: Duration::from_millis(620),
                sent_bytes: 1,
                received_bytes: 1,
                outcome,
            };
            tally.note(&sample, title.objective);
            let glimpse =
                Glimpse { at_seconds: 1.0, queue_length: Some(17.0), replicas: Some(3.0), desired_replicas: None };
            tally.advance(Duration::from_secs(second + 1), 2 * second as usize, Some(glimpse));
        }
        for (width, height) in [(100, 30), (40, 12), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
            terminal.draw(|frame| draw(frame, &title, &tally, Duration::from_secs(30))).expect("drawn");
            let text = terminal.backend().to_string();
            if width == 100 {
                for word in [
                    "burst.txt",
                    "30 of 60 s",
                    "620 ms",
                    "0.00 % within 500 ms",
                    "3 × queue_full",
                    "17",
                    "queue, highest",
                ] {
                    assert!(text.contains(word), "{word} is not in\n{text}");
                }
            }
        }
    }
}

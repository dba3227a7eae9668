//! The live screen: fills the terminal with the progress of a run, and reads the keyboard.

use super::{RunInfo, UserInput, attainment, window};
use crate::latencies::format_ms;
use crate::progress::{Progress, Second};
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

/// The terminal in raw mode, on its alternate screen. The screen is drawn to standard error, so that standard output
/// has only the results of the run.
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

    /// Draws the screen. Returns the input since the last call.
    pub(super) fn show(&mut self, info: &RunInfo, progress: &Progress, now: Duration) -> UserInput {
        // An error means that the terminal is closed. The run goes on without it.
        let _drawn = self.terminal.draw(|frame| draw(frame, info, progress, now));
        read_keys()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // An error means that the terminal is closed, and needs no restoring.
        let _left = execute!(io::stderr(), LeaveAlternateScreen);
        let _restored = disable_raw_mode();
    }
}

/// Reads the keys that were pressed. Ctrl-C is one of these keys, since a terminal in raw mode sends no signal for it.
fn read_keys() -> UserInput {
    let mut input = UserInput::Nothing;
    while event::poll(Duration::ZERO).unwrap_or(false) {
        if let Ok(Event::Key(key)) = event::read() {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            if key.code == KeyCode::Char('q') || control && key.code == KeyCode::Char('c') {
                input = UserInput::Stop;
            }
        }
    }
    input
}

/// Draws the whole screen.
fn draw(frame: &mut Frame, info: &RunInfo, progress: &Progress, now: Duration) {
    let [head, figures, plots, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Length(6), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    let length = info.length.as_secs_f64().max(f64::MIN_POSITIVE);
    let gauge = Gauge::default()
        .block(Block::bordered().title(format!(" {} ", info.title)))
        .gauge_style(Color::Blue)
        .ratio((now.as_secs_f64() / length).clamp(0.0, 1.0))
        .label(format!("{} of {length:.0} s", now.as_secs()));
    frame.render_widget(gauge, head);
    let [load, latency, errors] = Layout::horizontal([Constraint::Fill(1); 3]).areas(figures);
    frame.render_widget(block(" load ", load_lines(progress)), load);
    let objective_ms = info.objective.as_secs_f64() * 1e3;
    frame.render_widget(block(&format!(" latency, {} ", window()), latency_lines(progress, objective_ms)), latency);
    frame.render_widget(block(" failed ", error_lines(progress)), errors);
    draw_history(frame, plots, progress, objective_ms);
    frame.render_widget(Line::from("q or Ctrl-C: stop, and report the part so far").dim(), foot);
}

/// Lines of text in a box with a title.
fn block(title: &str, lines: Vec<Line<'static>>) -> Paragraph<'static> {
    Paragraph::new(lines).block(Block::bordered().title(title.to_owned()))
}

/// A line with the name and the value of a figure.
fn figure(name: &'static str, value: String) -> Line<'static> {
    Line::from(vec![Span::from(format!("{name:<12}")).dim(), Span::from(value).bold()])
}

fn load_lines(progress: &Progress) -> Vec<Line<'static>> {
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"));
    let metrics = progress.server_metrics;
    vec![
        figure("sent", format!("{}/s", progress.rate())),
        figure("in flight", progress.in_flight.to_string()),
        figure("queue", number(metrics.and_then(|metrics| metrics.queue_length))),
        figure("replicas", number(metrics.and_then(|metrics| metrics.replicas))),
    ]
}

fn latency_lines(progress: &Progress, objective_ms: f64) -> Vec<Line<'static>> {
    let latency = progress.percentiles();
    vec![
        figure("p50", format_ms(latency.map(|latency| latency.p50))),
        figure("p95", format_ms(latency.map(|latency| latency.p95))),
        figure("p99", format_ms(latency.map(|latency| latency.p99))),
        figure("in time", format!("{} within {objective_ms:.0} ms", attainment(progress))),
    ]
}

fn error_lines(progress: &Progress) -> Vec<Line<'static>> {
    let mut counts: Vec<(&String, &usize)> = progress.errors.iter().collect();
    counts.sort_by(|a, b| b.1.cmp(a.1));
    let mut lines = vec![figure("requests", format!("{} of {}", progress.failed, progress.counted))];
    lines.extend(counts.iter().take(3).map(|(code, count)| Line::from(format!("{count} × {code}")).red()));
    lines
}

/// Draws the last seconds of the run, as far as they fit: one column for each second.
fn draw_history(frame: &mut Frame, area: Rect, progress: &Progress, objective_ms: f64) {
    type PlottedFigure = fn(&Second) -> f64;
    let plots: [(&str, &str, PlottedFigure, Color); 4] = [
        ("sent", "/s", |second| second.sent as f64, Color::Blue),
        ("p95", " ms", |second| second.p95_ms, Color::Yellow),
        ("queue", "", |second| second.queue_length, Color::Cyan),
        ("replicas", "", |second| second.replicas, Color::Magenta),
    ];
    let areas = Layout::vertical([Constraint::Fill(1); 4]).split(area);
    for ((name, unit, figure, color), &area) in plots.into_iter().zip(areas.iter()) {
        let columns = usize::from(area.width.saturating_sub(2));
        let from = progress.seconds.len().saturating_sub(columns);
        let values: Vec<f64> = progress.seconds[from..].iter().map(figure).collect();
        let highest = values.iter().copied().fold(0.0, f64::max);
        let missed = name == "p95" && highest > objective_ms;
        let title = Line::from(format!(" {name}, highest {highest:.0}{unit} "));
        let spark = Sparkline::default()
            .block(Block::bordered().title(if missed { title.red() } else { title }))
            // A sparkline draws whole numbers only, so the values are multiplied by 100.
            .data(values.iter().map(|value| (value * 100.0) as u64))
            .style(Style::from(color));
        frame.render_widget(spark, area);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{ANSWERED, failed, sample};
    use crate::server_metrics::ServerMetrics;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_screen_shows_the_progress_of_the_run() {
        let info = RunInfo {
            title: "burst.txt to http://127.0.0.1:5052/predict".into(),
            length: Duration::from_secs(60),
            objective: Duration::from_millis(500),
        };
        let mut progress = Progress::new(Duration::ZERO, info.objective);
        for second in 0..30 {
            let outcome = match second % 10 {
                9 => failed("queue_full"),
                _ => ANSWERED,
            };
            progress.record(&sample(1000 * second, 620, outcome));
            let metrics = ServerMetrics {
                at_seconds: 1.0,
                queue_length: Some(17.0),
                replicas: Some(3.0),
                desired_replicas: None,
            };
            progress.advance(Duration::from_secs(second + 1), 2 * second as usize, Some(metrics));
        }
        for (width, height) in [(100, 30), (40, 12), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
            terminal.draw(|frame| draw(frame, &info, &progress, Duration::from_secs(30))).expect("drawn");
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

//! Executes `loadgen workload`: shows a workload as figures and as a plot, without sending it.

use crate::config::WorkloadArgs;
use anyhow::Result;
use ratatui::backend::TestBackend;
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};
use ratatui::{Frame, Terminal};
use workload::Workload;

/// Width of the plot, in characters.
const WIDTH: u16 = 100;

/// Height of the plot, in lines.
const HEIGHT: u16 = 20;

/// The figures of a workload, and its plot with `--plot`, as text.
///
/// # Errors
/// If the workload cannot be read, or is empty, too long or too large.
pub fn show(args: &WorkloadArgs) -> Result<String> {
    let (workload, format) = args.load.workload_and_format()?;
    let format = format.map_or_else(String::new, |format| format!("format      {format}\n"));
    let mut text = format!("workload    {}\n{format}{}", args.load.describe(), figures(&workload));
    if args.plot {
        text.push_str("\n\n");
        text.push_str(&plot(&workload));
    }
    Ok(text)
}

/// Length, number of requests and rates of a workload.
fn figures(workload: &Workload) -> String {
    let rates = &workload.per_second;
    let seconds = rates.len();
    let peak = rates.iter().copied().fold(0.0, f64::max);
    let peak_second = rates.iter().position(|&rate| rate == peak).unwrap_or_default();
    let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let silent = rates.iter().filter(|&&rate| rate == 0.0).count();
    let mean = workload.total() / seconds as f64;
    format!(
        "length      {seconds} s, of which {silent} without load\nrequests    {:.0}\n\
         rate        mean {mean:.1}/s, lowest {lowest:.1}/s, highest {peak:.1}/s in second {peak_second} \
         ({:.1} times the mean)",
        workload.total(),
        peak / mean
    )
}

/// A plot of the requests per second over time, as text.
fn plot(workload: &Workload) -> String {
    let rates = &workload.per_second;
    let length = rates.len() as f64;
    let peak = rates.iter().copied().fold(0.0, f64::max);
    // A bar for every column of dots; a character has two columns. Each bar is as high as the highest second within it.
    let columns = 2 * usize::from(WIDTH);
    let second = |column: usize| (column as f64 / columns as f64 * length) as usize;
    let bar = |column: usize| {
        let (from, to) = (second(column), second(column + 1).min(rates.len()));
        let highest = rates[from..to.max(from + 1)].iter().copied().fold(0.0, f64::max);
        (column as f64 / columns as f64 * length, highest)
    };
    let points: Vec<(f64, f64)> = (0..columns).map(bar).collect();
    let draw = |frame: &mut Frame| {
        let data = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Bar).data(&points);
        let x = Axis::default().title("s").bounds([0.0, length]).labels([
            "0".to_owned(),
            format!("{:.0}", length / 2.0),
            format!("{length:.0}"),
        ]);
        let y = Axis::default().title("requests/s").bounds([0.0, peak]).labels([
            "0".to_owned(),
            format!("{:.0}", peak / 2.0),
            format!("{peak:.0}"),
        ]);
        frame.render_widget(Chart::new(vec![data]).x_axis(x).y_axis(y).legend_position(None), frame.area());
    };
    // The plot is drawn into memory and returned as text, so that it can be piped to a file.
    let mut terminal = Terminal::new(TestBackend::new(WIDTH, HEIGHT)).expect("a terminal in memory cannot fail");
    terminal.draw(draw).expect("a terminal in memory cannot fail");
    let cells = terminal.backend().buffer().content();
    let lines = cells.chunks(usize::from(WIDTH)).map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_rises_where_the_workload_does() {
        let workload = Workload { per_second: [vec![1.0; 50], vec![9.0; 50]].concat() };
        let figures = figures(&workload);
        assert!(
            figures.contains("100 s, of which 0") && figures.contains("highest 9.0/s in second 50 (1.8"),
            "{figures}"
        );
        let plot = plot(&workload);
        let lines: Vec<&str> = plot.lines().collect();
        let filled = |line: &str| line.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count();
        assert!(filled(lines[4]) > 30 && filled(lines[15]) > filled(lines[4]) - 5, "{plot}");
        assert!(plot.contains("requests/s") && plot.contains("100"), "{plot}");
    }
}

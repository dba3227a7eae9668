//! `bench scaler`: the law `slo` in virtual time, next to the laws of other autoscalers. Each section prints its figures
//! beside their targets. Also measures the time of a decision, and how close the simulator is to the real programs.

mod comparison;
mod course;
mod decisions;
mod disturbed;
mod frontier;
mod live;
mod section;
mod sets;
mod sizes;
mod startup;
mod steady;

use crate::figure;
use crate::output::Output;
use anyhow::{Context, Result};
use clap::ValueEnum;
use section::Section;
use serde_json::Map;
use sets::HeldOut;
use std::time::Instant;

/// Flags of `bench scaler`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    output: Output,
    /// Sections to run; by default all, which takes about a quarter of an hour on two cores
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SECTIONS")]
    only: Vec<Section>,
}

/// Runs the chosen sections, prints the results and a summary of all figures with their targets, and writes the figures.
///
/// # Errors
/// If a program does not start, fails or does not answer.
pub(crate) fn run(options: &Options) -> Result<()> {
    let is_chosen = |section: &&Section| options.only.is_empty() || options.only.contains(section);
    let held_out = HeldOut::default();
    let (mut figures, mut details) = (Vec::new(), Map::new());
    for section in Section::value_variants().iter().filter(is_chosen) {
        println!("\n== {}", section.title());
        let started = Instant::now();
        let measured = section.measure(&held_out).with_context(|| format!("measure the section {}", section.name()))?;
        if !measured.figures.is_empty() {
            figure::print(&measured.figures);
        }
        eprintln!("the section {} took {:.0} s", section.name(), started.elapsed().as_secs_f64());
        figures.extend(measured.figures);
        details.insert(section.name(), measured.details);
    }
    println!("\n== Summary");
    figure::print(&figures);
    let mut json = figure::json(&figures);
    json.as_object_mut().expect("the figures are an object").extend(details);
    options.output.write(&json)
}

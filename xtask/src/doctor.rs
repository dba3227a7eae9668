//! `cargo xtask doctor`: the table of requirements.

use crate::requirement::{self, PackageManager, Requirement};
use anyhow::{Result, ensure};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Modify, Padding, Style, Width};

/// Largest width of the column that says what needs a requirement. Commands are never broken: people copy them.
const NEEDED_BY_WIDTH: usize = 44;

/// Prints every requirement and whether it is met. Runs and installs nothing else.
///
/// # Errors
/// If one is not met.
pub fn run() -> Result<()> {
    let survey = requirement::survey();
    println!("{}", table(&survey, PackageManager::of_this_system()));
    let missing = survey.iter().filter(|(_, is_met)| !is_met).count();
    ensure!(missing == 0, "{missing} of {} requirements are not met", survey.len());
    Ok(())
}

/// What a test run says at its end: the requirements that were not met, as a table, or that no test was skipped.
pub fn skipped() -> String {
    let missing: Vec<_> = requirement::missing().into_iter().map(|requirement| (requirement, false)).collect();
    if missing.is_empty() {
        return "every requirement was met: no test was skipped for want of one".to_owned();
    }
    format!("tests were skipped:\n{}", table(&missing, PackageManager::of_this_system()))
}

/// One line for each requirement, with the command that meets it where it is not met.
fn table(survey: &[(&Requirement, bool)], manager: PackageManager) -> String {
    let mut builder = Builder::new();
    builder.push_record(["requirement", "state", "needed by", "to get it"]);
    for (requirement, is_met) in survey {
        let (state, command) =
            if *is_met { ("found", String::new()) } else { ("missing", requirement.remedy.command(manager)) };
        builder.push_record([requirement.name, state, requirement.needed_by, &command]);
    }
    let mut table = builder.build();
    table
        .with(Style::blank())
        .with(Padding::new(0, 1, 0, 0))
        .with(Modify::new(Columns::one(2)).with(Width::wrap(NEEDED_BY_WIDTH).keep_words(true)));
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

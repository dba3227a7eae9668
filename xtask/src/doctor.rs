//! `cargo xtask doctor`: the table of requirements.

use crate::requirement::{self, PackageManager, Requirement};
use anyhow::{Result, ensure};

/// Prints every requirement and whether it is met. Installs nothing.
///
/// # Errors
/// If one is not met.
pub fn run() -> Result<()> {
    let survey = requirement::survey();
    print!("{}", table(&survey, PackageManager::of_this_system()));
    let missing = survey.iter().filter(|(_, is_met)| !is_met).count();
    ensure!(missing == 0, "{missing} of {} requirements are not met; the table tells how to get them", survey.len());
    println!("nothing is missing");
    Ok(())
}

/// What a test run says at its end: the requirements that were not met, as a table, or that no test was skipped.
pub fn skipped() -> String {
    let missing: Vec<_> = requirement::missing().into_iter().map(|requirement| (requirement, false)).collect();
    if missing.is_empty() {
        return "no test was skipped".to_owned();
    }
    format!("tests were skipped because this is missing:\n{}", table(&missing, PackageManager::of_this_system()))
}

/// One line for each requirement, with the command that meets it where it is not met.
fn table(survey: &[(&Requirement, bool)], manager: PackageManager) -> String {
    let row = |name: &str, state: &str, needed_by: &str, command: &str| {
        format!("{name:<24} {state:<8} {needed_by:<46} {command}").trim_end().to_owned() + "\n"
    };
    let mut table = row("requirement", "state", "needed by", "to get it");
    for (requirement, is_met) in survey {
        let command = if *is_met { String::new() } else { requirement.remedy.command(manager) };
        let state = if *is_met { "found" } else { "missing" };
        table += &row(requirement.name, state, requirement.needed_by, &command);
    }
    table
}

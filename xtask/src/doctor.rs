//! `cargo xtask doctor`: prints the table of requirements.

use crate::requirement::{self, PackageManager, Requirement};
use anyhow::{Result, ensure};

/// Prints every requirement and whether it is met. Installs nothing.
///
/// # Errors
/// If a requirement is not met.
pub fn run() -> Result<()> {
    let survey = requirement::survey();
    print!("{}", table(&survey, PackageManager::of_this_system()));
    let missing = survey.iter().filter(|(_, is_met)| !is_met).count();
    ensure!(missing == 0, "{missing} of {} requirements are not met; the table says how to meet them", survey.len());
    println!("all requirements are met");
    Ok(())
}

/// The last message of a test run: a table of the requirements that are not met, or that all are met.
pub fn skipped() -> String {
    let missing: Vec<_> = requirement::missing().into_iter().map(|requirement| (requirement, false)).collect();
    if missing.is_empty() {
        return "no test was skipped for a missing requirement".to_owned();
    }
    let table = table(&missing, PackageManager::of_this_system());
    format!("tests were skipped, because requirements are missing:\n{table}")
}

/// A table with one line for each requirement. The last column has the command for a requirement that is not met.
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

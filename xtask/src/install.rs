//! Gets what [`crate::requirement`] finds missing: packages of the system by apt-get, Python tools by pip.

use crate::requirement::{PackageManager, Remedy, Requirement, debian_packages};
use anyhow::Result;
use harness::command;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::process::Command;
use std::time::Duration;

/// Time limit of one call of apt-get.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Whether packages of the system may be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Install without a question.
    Given,
    /// Ask at the terminal; install nothing if there is none.
    Ask,
}

/// Installs all that can be installed. What cannot be had is named on standard error, and stays missing.
pub fn install(missing: &[&Requirement], consent: Consent) {
    let packages = debian_packages(missing);
    let manager = PackageManager::of_this_system();
    let has_apt = matches!(manager, PackageManager::AptGet | PackageManager::SudoAptGet);
    if !packages.is_empty() && has_apt && is_granted(consent, &packages) {
        if let Err(error) = apt_get(manager, &["update"]) {
            eprintln!("the lists of packages may be old: {error:#}");
        }
        let options = ["install", "--yes", "--no-install-recommends"];
        for error in install_each(&packages, |some| apt_get(manager, &[&options, some].concat())) {
            eprintln!("{error:#}");
        }
    }
    for requirement in missing {
        if let Remedy::Python(tool) = requirement.remedy
            && let Err(error) = tool.ensure()
        {
            eprintln!("{} could not be installed: {error:#}", requirement.name);
        }
    }
}

/// Installs all packages at once, or, if that fails, each by itself: one that cannot be had does not hold up the others.
/// Returns the errors of those that could not be installed.
fn install_each(packages: &[&str], mut install: impl FnMut(&[&str]) -> Result<()>) -> Vec<anyhow::Error> {
    match install(packages) {
        Ok(()) => Vec::new(),
        Err(error) if packages.len() == 1 => vec![error],
        Err(_) => packages.iter().filter_map(|package| install(&[package]).err()).collect(),
    }
}

fn is_granted(consent: Consent, packages: &[&str]) -> bool {
    if consent == Consent::Given {
        return true;
    }
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return false;
    }
    print!("install {} packages with apt-get ({})? [y/N] ", packages.len(), packages.join(", "));
    let mut answer = String::new();
    let is_read = stdout().flush().is_ok() && stdin().read_line(&mut answer).is_ok();
    is_read && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

fn apt_get(manager: PackageManager, arguments: &[&str]) -> Result<()> {
    let through_sudo: &[&str] = if manager == PackageManager::SudoAptGet { &["sudo"] } else { &[] };
    // Another program may be installing at the same time; apt-get waits for it.
    let apt_get = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=120"];
    let line = [through_sudo, &apt_get, arguments].concat();
    command::run(Command::new(line[0]).args(&line[1..]), LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    /// The calls that installing these packages makes, and the errors, if one of them cannot be had.
    fn calls(packages: &[&str], absent: &str) -> (Vec<String>, Vec<String>) {
        let mut calls = Vec::new();
        let errors = install_each(packages, |some| {
            calls.push(some.join(" "));
            if some.contains(&absent) { bail!("no {absent}") } else { Ok(()) }
        });
        (calls, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_package_that_cannot_be_had_does_not_hold_up_the_others() {
        assert_eq!(calls(&["a", "b"], ""), (vec!["a b".into()], vec![]));
        assert_eq!(calls(&["a", "b"], "b"), (vec!["a b".into(), "a".into(), "b".into()], vec!["no b".into()]));
        assert_eq!(calls(&["b"], "b"), (vec!["b".into()], vec!["no b".into()]));
    }
}

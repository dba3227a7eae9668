//! Installs missing requirements: packages of the system with apt-get, and Python tools with pip.

use crate::requirement::{PackageManager, Remedy, Requirement, debian_packages};
use anyhow::{Context, Result};
use harness::command;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::process::Command;
use std::time::Duration;

/// Time limit for one call of apt-get.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// The user's consent to the installation of system packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// The user has consented on the command line.
    Given,
    /// The user is asked at the terminal. Without a terminal, no package is installed.
    Ask,
}

/// Installs the missing requirements where possible. Prints an error for each package or tool that stays missing.
pub fn install(missing: &[&Requirement], consent: Consent) {
    let packages = debian_packages(missing);
    let manager = PackageManager::of_this_system();
    let has_apt = matches!(manager, PackageManager::AptGet | PackageManager::SudoAptGet);
    if !packages.is_empty() && has_apt && is_granted(consent, &packages) {
        if let Err(error) = apt_get(manager, &["update"]) {
            eprintln!("apt-get may use old lists of packages, because the update failed: {error:#}");
        }
        let options = ["install", "--yes", "--no-install-recommends"];
        for error in install_each(&packages, |chosen| apt_get(manager, &[&options, chosen].concat())) {
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

/// Installs all packages at once. If that fails, installs each alone, because one absent package makes apt-get install
/// none. Returns an error for each package that could not be installed.
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
    let sudo: &[&str] = if manager == PackageManager::SudoAptGet { &["sudo"] } else { &[] };
    // apt-get would fail while another program installs packages, so it waits up to 120 s for the lock.
    let apt_get = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=120"];
    let line = [sudo, &apt_get, arguments].concat();
    let result = command::run(Command::new(line[0]).args(&line[1..]), LIMIT);
    result.with_context(|| format!("run apt-get {}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    /// The calls for installing `packages`, and the errors, if the package `absent` does not exist.
    fn calls(packages: &[&str], absent: &str) -> (Vec<String>, Vec<String>) {
        let mut calls = Vec::new();
        let errors = install_each(packages, |chosen| {
            calls.push(chosen.join(" "));
            if chosen.contains(&absent) { bail!("no {absent}") } else { Ok(()) }
        });
        (calls, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_absent_package_does_not_prevent_the_installation_of_others() {
        assert_eq!(calls(&["a", "b"], ""), (vec!["a b".into()], vec![]));
        assert_eq!(calls(&["a", "b"], "b"), (vec!["a b".into(), "a".into(), "b".into()], vec!["no b".into()]));
        assert_eq!(calls(&["b"], "b"), (vec!["b".into()], vec!["no b".into()]));
    }
}

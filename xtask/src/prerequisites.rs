//! What must be on the machine before anything long starts.

use crate::libtorch;
use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// Something that is run, and what to do when it is not there.
struct Prerequisite {
    what: &'static str,
    /// Any one of them will do.
    probes: &'static [&'static [&'static str]],
    debian: &'static str,
    macos: &'static str,
}

const COMPILER: Prerequisite = Prerequisite {
    what: "a C++ compiler",
    probes: &[&["c++", "--version"], &["g++", "--version"], &["clang++", "--version"]],
    debian: "sudo apt-get install g++",
    macos: "xcode-select --install",
};

const PIP: Prerequisite = Prerequisite {
    what: "python3 with pip",
    probes: &[&["python3", "-m", "pip", "--version"]],
    debian: "sudo apt-get install python3-pip",
    macos: "brew install python",
};

/// Checks everything at once, so that one round of installing is enough.
///
/// # Errors
/// Names whatever is missing and the command that installs it.
pub fn check() -> Result<()> {
    let mut needed = vec![COMPILER];
    if !libtorch::is_there() {
        needed.push(PIP);
    }
    let missing: Vec<String> = needed.iter().filter(|needed| !needed.is_there()).map(Prerequisite::advice).collect();
    if missing.is_empty() { Ok(()) } else { bail!("something is missing on this machine:\n{}", missing.join("\n")) }
}

impl Prerequisite {
    fn is_there(&self) -> bool {
        self.probes.iter().any(|probe| {
            let run = Command::new(probe[0]).args(&probe[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            run.is_ok_and(|status| status.success())
        })
    }

    fn advice(&self) -> String {
        let command = if cfg!(target_os = "macos") { self.macos } else { self.debian };
        format!("  {}; install it with: {command}", self.what)
    }
}

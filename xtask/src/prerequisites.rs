//! What must be on the machine before anything long starts.

use crate::libtorch;
use anyhow::{Result, bail};
use std::process::{Command, Stdio};

/// Something that is run, and what to do when it is not there.
struct Prerequisite {
    what: &'static str,
    probe: Vec<String>,
    debian: &'static str,
    macos: &'static str,
}

/// The one that the `cc` crate runs, which builds torch-sys.
fn compiler() -> Prerequisite {
    let program = std::env::var("CXX").unwrap_or_else(|_unset| "c++".into());
    Prerequisite {
        what: "a C++ compiler (c++, or $CXX)",
        probe: vec![program, "--version".into()],
        debian: "sudo apt-get install g++",
        macos: "xcode-select --install",
    }
}

fn pip() -> Prerequisite {
    Prerequisite {
        what: "python3 with pip",
        probe: ["python3", "-m", "pip", "--version"].map(str::to_owned).into(),
        debian: "sudo apt-get install python3-pip",
        macos: "brew install python",
    }
}

/// Checks everything at once, so that one round of installing is enough.
///
/// # Errors
/// Names whatever is missing and the command that installs it.
pub fn check() -> Result<()> {
    let mut needed = vec![compiler()];
    if !libtorch::is_there() {
        needed.push(pip());
    }
    let missing: Vec<String> = needed.iter().filter(|needed| !needed.is_there()).map(Prerequisite::advice).collect();
    if missing.is_empty() { Ok(()) } else { bail!("something is missing on this machine:\n{}", missing.join("\n")) }
}

impl Prerequisite {
    fn is_there(&self) -> bool {
        let mut run = Command::new(&self.probe[0]);
        run.args(&self.probe[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        run.status().is_ok_and(|status| status.success())
    }

    fn advice(&self) -> String {
        if cfg!(target_os = "macos") {
            return format!("  {}; install it with: {}", self.what, self.macos);
        }
        format!("  {}; on Debian and Ubuntu: {}; elsewhere with the system's package manager", self.what, self.debian)
    }
}

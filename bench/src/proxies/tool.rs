//! Finds programs of the system's packages, and tells how to install missing ones.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// A program and the package that provides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tool {
    /// The program's name on the command line.
    pub(crate) program: &'static str,
    /// The name of the package on Debian and Ubuntu.
    package: &'static str,
}

/// NGINX, a reverse proxy with which the dispatcher is compared.
pub(crate) const NGINX: Tool = Tool { program: "nginx", package: "nginx-light" };

/// HAProxy, a reverse proxy with which the dispatcher is compared.
pub(crate) const HAPROXY: Tool = Tool { program: "haproxy", package: "haproxy" };

/// wrk, the load generator.
pub(crate) const WRK: Tool = Tool { program: "wrk", package: "wrk" };

/// setpriv, which has the kernel send a signal to a program when the program's parent ends.
const SETPRIV: Tool = Tool { program: "setpriv", package: "util-linux" };

/// Checks that all programs are installed.
///
/// # Errors
/// If programs are missing. The message names all of them, and the command that installs them.
pub(crate) fn check() -> Result<()> {
    let missing: Vec<Tool> = [NGINX, HAPROXY, WRK, SETPRIV].into_iter().filter(|tool| tool.path().is_none()).collect();
    if missing.is_empty() { Ok(()) } else { bail!(advice(&missing)) }
}

impl Tool {
    /// A command that starts the program. The program gets SIGTERM when this process ends, even if this process is
    /// killed.
    ///
    /// # Errors
    /// If the program or setpriv is not installed.
    pub(crate) fn command(self) -> Result<Command> {
        let path = |tool: Self| tool.path().with_context(|| advice(&[tool]));
        let mut command = Command::new(path(SETPRIV)?);
        // setpriv replaces itself by the program, so the process id stays the same.
        command.args(["--pdeathsig", "TERM", "--"]).arg(path(self)?);
        Ok(command)
    }

    fn path(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian installs servers into folders that only root has in PATH.
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
        folders.map(|folder| folder.join(self.program)).find(|file| file.is_file())
    }
}

fn advice(missing: &[Tool]) -> String {
    let join = |words: fn(&Tool) -> &str| missing.iter().map(words).collect::<Vec<_>>().join(" ");
    format!(
        "not installed: {}; on Debian and Ubuntu: sudo apt-get install {}",
        join(|tool| tool.program),
        join(|tool| tool.package)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_their_packages() {
        let advice = advice(&[NGINX, WRK]);
        assert_eq!(advice, "not installed: nginx wrk; on Debian and Ubuntu: sudo apt-get install nginx-light wrk");
    }
}

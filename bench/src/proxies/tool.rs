//! Programs that the system's packages provide. Knows where they are; knows nothing of what they do.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// A program and the package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// As typed.
    pub program: &'static str,
    /// On Debian and Ubuntu.
    package: &'static str,
}

/// A reverse proxy.
pub const NGINX: Tool = Tool { program: "nginx", package: "nginx-light" };

/// Another.
pub const HAPROXY: Tool = Tool { program: "haproxy", package: "haproxy" };

/// Makes the load.
pub const WRK: Tool = Tool { program: "wrk", package: "wrk" };

/// Ties a program's life to this one's.
const SETPRIV: Tool = Tool { program: "setpriv", package: "util-linux" };

/// Checks everything at once, so that one round of installing is enough.
///
/// # Errors
/// Names whatever is missing and the command that installs it.
pub fn check() -> Result<()> {
    let missing: Vec<Tool> = [NGINX, HAPROXY, WRK, SETPRIV].into_iter().filter(|tool| tool.path().is_none()).collect();
    if missing.is_empty() { Ok(()) } else { bail!(advice(&missing)) }
}

impl Tool {
    /// Runs it so that it ends with this process, however this process ends, even by kill -9.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn command(self) -> Result<Command> {
        let path = |tool: Self| tool.path().with_context(|| advice(&[tool]));
        let mut command = Command::new(path(SETPRIV)?);
        // setpriv becomes the program, under the same process id.
        command.args(["--pdeathsig", "TERM", "--"]).arg(path(self)?);
        Ok(command)
    }

    fn path(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian puts servers where only root looks.
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
    fn whatever_is_missing_is_named_with_its_package() {
        let advice = advice(&[NGINX, WRK]);
        assert_eq!(advice, "not installed: nginx wrk; on Debian and Ubuntu: sudo apt-get install nginx-light wrk");
    }
}

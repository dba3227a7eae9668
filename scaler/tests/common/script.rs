//! Shell scripts that take the place of the program of a replica.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes an executable script. A child process writes it: a process that another test starts at the same moment inherits
/// the open files of this process, and a script that is open for writing cannot be started ("text file busy").
pub(crate) fn write(path: &Path, text: &str) {
    let mut install = Command::new("install");
    let mut child = install
        .args(["--mode=755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the command `install` exists");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("the command reads");
    assert!(child.wait().expect("the command ends").success(), "the folder of {} is writable", path.display());
}

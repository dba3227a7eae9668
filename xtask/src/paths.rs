//! Where things are. Everything that is made lies under the workspace's `target`.

use std::path::PathBuf;

/// The workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// What is made and can be made again.
pub fn target() -> PathBuf {
    root().join("target")
}

/// libtorch as unpacked here.
pub fn libtorch() -> PathBuf {
    target().join("libtorch")
}

/// A program of the workspace, beside this one, wherever cargo was told to build.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the system tells where this program is");
    let folder = own.parent().expect("a program is in a folder");
    // Tests lie one folder deeper.
    if folder.ends_with("deps") { folder.with_file_name(name) } else { folder.join(name) }
}

/// Logs and reports of one command.
pub fn output(command: &str) -> PathBuf {
    target().join("roundhouse").join(command)
}

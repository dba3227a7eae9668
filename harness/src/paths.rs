//! Where files are. Everything that `cargo xtask` makes is in the workspace's folder `target`.

use std::path::PathBuf;

/// The root folder of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}

/// The folder of files that can be made again.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The folder into which `cargo xtask libtorch` unpacks libtorch.
pub fn libtorch() -> PathBuf {
    target().join("libtorch")
}

/// The folder of a Python environment.
pub fn tool(name: &str) -> PathBuf {
    target().join("tools").join(name)
}

/// The file of a program of the workspace. It is beside this program, in whichever folder cargo builds.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the system tells where this program is");
    let folder = own.parent().expect("a program is in a folder");
    // cargo puts the programs of tests one folder deeper.
    if folder.ends_with("deps") { folder.with_file_name(name) } else { folder.join(name) }
}

/// The folder for logs and reports of one command.
pub fn output(command: &str) -> PathBuf {
    target().join("roundhouse").join(command)
}

//! The paths of the workspace's files. Everything that `cargo xtask` makes is in the folder `target`.

use std::path::PathBuf;

/// The root folder of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("harness is a folder of the workspace").to_owned()
}

/// The folder `target`, whose files can be made again.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The folder into which `cargo xtask libtorch` unpacks libtorch.
pub fn libtorch() -> PathBuf {
    target().join("libtorch")
}

/// The folder of the Python environment `name`.
pub fn tool(name: &str) -> PathBuf {
    target().join("tools").join(name)
}

/// The file of the workspace's program `name`. It is in the folder of the running program, since cargo puts all
/// programs into one folder.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the system gives the path of the running program");
    let folder = own.parent().expect("the path of a program has a folder");
    // cargo puts the programs of tests one folder deeper, into `deps`.
    if folder.ends_with("deps") { folder.with_file_name(name) } else { folder.join(name) }
}

/// The folder for logs and reports of the xtask command `command`.
pub fn output(command: &str) -> PathBuf {
    target().join("roundhouse").join(command)
}

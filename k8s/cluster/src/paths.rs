//! Where things are.

use std::path::PathBuf;

/// The workspace.
pub fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).expect("this crate lies two folders deep in the workspace").to_owned()
}

/// A program of the workspace, beside this one.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the system tells where this program is");
    own.with_file_name(name)
}

/// Logs and reports of one command.
pub fn output(command: &str) -> PathBuf {
    root().join("target/roundhouse").join(command)
}

/// Where an archive of the control plane is unpacked.
pub fn control_plane() -> PathBuf {
    root().join("target/tools/control-plane")
}

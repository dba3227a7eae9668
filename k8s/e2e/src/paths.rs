//! Where things are.

use std::path::PathBuf;

/// The workspace.
pub fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).expect("this crate lies two folders deep in the workspace").to_owned()
}

/// The folder of programs, which is this one's.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("the system tells where this program is");
    own.parent().expect("a program is in a folder").to_owned()
}

/// One of them.
pub fn program(name: &str) -> PathBuf {
    programs().join(name)
}

/// libtorch's libraries: those of `$LIBTORCH`, or as `cargo xtask libtorch` unpacks them.
pub fn libraries() -> PathBuf {
    let libtorch = std::env::var_os("LIBTORCH").map_or_else(|| root().join("target/libtorch"), PathBuf::from);
    libtorch.join("lib")
}

/// Logs and reports of one command.
pub fn output(command: &str) -> PathBuf {
    root().join("target/roundhouse").join(command)
}

/// Where an archive of the control plane is unpacked.
pub fn control_plane() -> PathBuf {
    root().join("target/tools/control-plane")
}

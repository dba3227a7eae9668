//! The script `k8s/images/gather`, which collects the files of a container image.
#![cfg(target_os = "linux")]

use harness::{command, paths};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Time limit for the compiler and for the script.
const LIMIT: Duration = Duration::from_secs(60);

/// A program that is linked with the libraries `libtorch_cpu.so` and `libtorch_cuda.so` beside it, which this test makes.
struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = Self { folder };
        for library in ["libtorch_cpu.so", "libtorch_cuda.so"] {
            program.compile("int torch(void) { return 0; }", &["-shared", "-fPIC", "-o", library]);
        }
        let search = format!("-Wl,-rpath,{}", program.path("").display());
        let link = ["-o", "program", "-Wl,--no-as-needed", "-L.", "-ltorch_cpu", "-ltorch_cuda", &search];
        program.compile("int main(void) { return 0; }", &link);
        program
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn compile(&self, source: &str, arguments: &[&str]) {
        fs::write(self.path("source.c"), source).expect("writable");
        let mut compiler = Command::new("cc");
        compiler.arg("source.c").args(arguments).current_dir(self.folder.path());
        assert!(command::status(&mut compiler, LIMIT).expect("cc runs").success());
    }

    /// Runs the script with a umask with which only the owner may read new files.
    fn gather(&self) -> Output {
        let mut script = Command::new("sh");
        script.args(["-c", "umask 077; exec sh \"$@\"", "sh"]).arg(paths::root().join("k8s/images/gather"));
        script.arg(self.path("program")).arg(self.path("root"));
        command::output(&mut script, LIMIT).expect("sh runs")
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[test]
fn libraries_that_cuda_loads_later_are_gathered_and_all_users_may_read_the_files() {
    let program = Program::new();
    let later = ["libcaffe2_nvrtc.so", "libcudnn_ops.so.9", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0"];
    for library in later {
        fs::copy(program.path("libtorch_cuda.so"), program.path(library)).expect("writable");
        fs::set_permissions(program.path(library), PermissionsExt::from_mode(0o600)).expect("own file");
    }
    fs::write(program.path("libtorch_python.so"), "").expect("writable");
    let output = program.gather();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let root = program.path("root");
    let libraries = root.join("usr/lib/roundhouse");
    for library in ["libtorch_cpu.so", "libtorch_cuda.so"].iter().chain(&later) {
        assert_eq!(mode(&libraries.join(library)) & 0o444, 0o444, "{library}");
    }
    assert!(!libraries.join("libtorch_python.so").exists(), "the program does not need it");
    assert_eq!(mode(&root.join("usr/bin/program")), 0o755);
    for folder in ["", "usr/bin", "usr/lib/roundhouse", "etc"] {
        assert_eq!(mode(&root.join(folder)), 0o755, "{folder:?}");
    }
}

#[test]
fn a_missing_library_is_an_error_that_names_it() {
    let program = Program::new();
    fs::remove_file(program.path("libtorch_cuda.so")).expect("removable");
    let output = program.gather();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("libtorch_cuda.so"), "{error}");
}

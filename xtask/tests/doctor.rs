//! `cargo xtask doctor` on a machine that lacks most requirements.

use std::process::{Command, Output};

fn doctor(path: &str) -> Output {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_xtask"));
    doctor.arg("doctor").env_clear().env("PATH", path).env("LIBTORCH", "/no/such/libtorch");
    doctor.output().expect("xtask starts")
}

#[test]
fn without_any_program_each_requirement_has_a_row_with_a_command() {
    let output = doctor("/no/such/folder");
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    for (name, command) in [
        ("C++ compiler", "g++"),
        ("libtorch", "cargo xtask libtorch"),
        ("prometheus", "prometheus"),
        ("chromium", "chromium"),
        ("kubectl", "kubernetes-client"),
        ("control plane", "KUBEBUILDER_ASSETS"),
    ] {
        let row = table.lines().find(|line| line.trim_start().starts_with(name));
        let row = row.unwrap_or_else(|| panic!("no row {name}:\n{table}"));
        assert!(row.contains("missing") && row.contains(command), "{row}");
    }
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(error.contains("requirements are not met"), "{error}");
}

#[test]
fn the_row_of_a_found_program_has_no_command() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("kubectl"), "").expect("writable");
    let output = doctor(folder.path().to_str().expect("UTF-8"));
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let row = table.lines().find(|line| line.contains("kubectl")).expect("a row");
    assert!(row.contains("found") && !row.contains("kubernetes-client"), "{row}");
}

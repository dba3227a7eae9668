//! How a failing command ends.

use std::process::Command;

#[test]
fn an_error_ends_with_its_message_and_no_backtrace() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("libtorch")
        .env("LIBTORCH", "/no/such/folder")
        .env("RUST_BACKTRACE", "1")
        .env_remove("RUST_LIB_BACKTRACE")
        .output()
        .expect("xtask runs");
    let stderr = String::from_utf8(output.stderr).expect("the message is text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
}

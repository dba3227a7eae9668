//! The dispatcher's program, started for a test on a free port.

use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Running; killed when dropped.
pub(crate) struct Program {
    #[allow(dead_code, reason = "not every test that starts it ends it by hand")]
    pub(crate) child: Child,
    /// `host:port`.
    pub(crate) address: String,
}

impl Program {
    pub(crate) async fn start(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
            .args(["--listen=127.0.0.1:0", "--exit-with-parent"])
            .args(flags)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the dispatcher starts");
        let stdout = child.stdout.take().expect("piped");
        let line = BufReader::new(stdout).lines().next_line().await.expect("readable").expect("it says where");
        let address = line.strip_prefix("listening on http://").expect("its address").to_owned();
        Self { child, address }
    }
}

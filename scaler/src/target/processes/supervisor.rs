//! The task of one child process. It reports that the replica is ready and that the process has ended, and drains it.

use hyper::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use service::fetch;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::{mpsc, oneshot};

/// Time between two probes of a starting replica.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Time after which a replica that is not ready yet is killed.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// An event of a child process. It is sent with the number of the replica.
#[derive(Debug)]
pub(super) enum ChildEvent {
    /// The replica is ready. The value is its address, `HOST:PORT`.
    Ready(String),
    /// The process has ended. The value says how, as a text for users.
    Ended(String),
}

/// Follows a process until it has ended. Dropping the other end of `stopped` drains the process, which is killed if it
/// takes longer than `limit`.
pub(super) async fn run(
    id: u64,
    mut child: Child,
    stopped: oneshot::Receiver<()>,
    limit: Duration,
    events: mpsc::Sender<(u64, ChildEvent)>,
) {
    let stdout = child.stdout.take().expect("standard output is piped");
    // Held until the process has ended: `wait` would close the standard input, and the process would exit.
    let _stdin = child.stdin.take();
    let starting = async {
        match tokio::time::timeout(START_TIMEOUT, ready_address(stdout)).await {
            Ok(Some(address)) => {
                // The send succeeds, since the owner of the replicas receives until all processes have ended.
                let _received = events.send((id, ChildEvent::Ready(address))).await;
                std::future::pending().await
            }
            Ok(None) => {
                // If the process is about to end, its exit status says more than this message.
                tokio::time::sleep(Duration::from_secs(1)).await;
                "its first line was not \"listening on http://HOST:PORT\"".to_owned()
            }
            Err(_elapsed) => format!("it was not ready within {START_TIMEOUT:?}"),
        }
    };
    let status = tokio::select! {
        status = child.wait() => describe(status),
        reason = starting => kill(&mut child, &reason).await,
        _dropped = stopped => drain(&mut child, limit).await,
    };
    let _received = events.send((id, ChildEvent::Ended(status))).await;
}

/// Reads the address from the replica's first line and waits until it is ready; `None` if it printed another line.
async fn ready_address(stdout: ChildStdout) -> Option<String> {
    let mut lines = BufReader::new(stdout).lines();
    let line = lines.next_line().await.ok()??;
    let address = line.strip_prefix("listening on http://")?.to_owned();
    loop {
        if let Ok((StatusCode::OK, _)) = fetch::get(&address, "/readyz", Duration::from_secs(1)).await {
            return Some(address);
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn drain(child: &mut Child, limit: Duration) -> String {
    // The id is known until the process has been waited for, so the signal cannot hit another process.
    let process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let _fails_if_it_has_ended = process.map(|process| kill_process(process, Signal::TERM));
    match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => describe(status),
        Err(_elapsed) => kill(child, &format!("it did not end within {limit:?}")).await,
    }
}

async fn kill(child: &mut Child, reason: &str) -> String {
    match child.kill().await {
        Ok(()) => format!("{reason}, so it was killed"),
        Err(error) => format!("{reason}, and it cannot be killed: {error}"),
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

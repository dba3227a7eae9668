//! The task of one child process: it tells when the replica is ready and when the process has ended, and stops it.

use hyper::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use service::fetch;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::{mpsc, oneshot};

/// Time between two questions whether a starting replica is ready.
const POLL: Duration = Duration::from_millis(20);

/// A replica that is not ready by then is killed.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A change of a replica. Its number comes with it.
#[derive(Debug)]
pub(super) enum Event {
    /// The replica serves at this address, `HOST:PORT`.
    Ready(String),
    /// The process has ended, and how, for people.
    Ended(String),
}

/// Lives as long as one process. Dropping the other end of `stopped` drains the process, which is killed if it has not ended
/// within `limit`.
pub(super) async fn run(
    id: u64,
    mut child: Child,
    stopped: oneshot::Receiver<()>,
    limit: Duration,
    events: mpsc::Sender<(u64, Event)>,
) {
    let stdout = child.stdout.take().expect("standard output is piped");
    // Held until the process has ended: `wait` would close it, and so tell the process to exit.
    let _stdin = child.stdin.take();
    let starting = async {
        match tokio::time::timeout(START_TIMEOUT, ready_address(stdout)).await {
            Ok(Some(address)) => {
                // The owner of the replicas receives until all processes have ended.
                let _received = events.send((id, Event::Ready(address))).await;
                std::future::pending().await
            }
            Ok(None) => {
                // If the process has ended, that is the better reason, and is noticed first.
                tokio::time::sleep(Duration::from_secs(1)).await;
                "its first line is not \"listening on http://HOST:PORT\""
            }
            Err(_elapsed) => "not ready in time",
        }
    };
    let status = tokio::select! {
        status = child.wait() => describe(status),
        reason = starting => {
            let killed = child.kill().await;
            format!("{reason}, killed{}", killed.err().map(|error| format!(": {error}")).unwrap_or_default())
        }
        _dropped = stopped => drain(&mut child, limit).await,
    };
    let _received = events.send((id, Event::Ended(status))).await;
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
        tokio::time::sleep(POLL).await;
    }
}

async fn drain(child: &mut Child, limit: Duration) -> String {
    // The id is known until the process has been waited for, so the signal cannot hit another process.
    let process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let _fails_if_it_has_ended = process.map(|process| kill_process(process, Signal::TERM));
    match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => describe(status),
        Err(_elapsed) => {
            let killed = child.kill().await;
            format!("still there after {limit:?}, killed ({killed:?})")
        }
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

//! What looks after one process.

use hyper::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use service::fetch;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};

/// Between two questions whether a starting replica is ready.
const POLL: Duration = Duration::from_millis(20);

/// A replica that is not ready by then is given up.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What happened to a replica.
#[derive(Debug)]
pub(super) enum Event {
    /// It serves at this address.
    Ready {
        /// Which one.
        id: u64,
        /// `HOST:PORT`
        address: String,
    },
    /// Its process is no more.
    Ended {
        /// Which one.
        id: u64,
        /// How, for people.
        status: String,
    },
}

/// Lives as long as one process: tells when it is ready and when it has ended, and stops it when asked to.
pub(super) async fn run(
    id: u64,
    mut child: Child,
    stopped: oneshot::Receiver<()>,
    limit: Duration,
    events: mpsc::Sender<Event>,
) {
    let stdout = child.stdout.take().expect("standard output is piped");
    // Held until the process has ended: waiting for it would close it, and so tell it to go.
    let _lifeline = child.stdin.take();
    let starting = async {
        match tokio::time::timeout(START_TIMEOUT, ready_address(stdout)).await {
            Ok(Some(address)) => {
                // The owner outlives its children.
                let _owner = events.send(Event::Ready { id, address }).await;
                std::future::pending().await
            }
            Ok(None) => {
                // If it has ended, that is the better reason, and is seen first.
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
        _asked = stopped => drained(&mut child, limit).await,
    };
    let _owner = events.send(Event::Ended { id, status }).await;
}

/// Reads the address from the replica's first line and asks until it is ready; nothing if it printed something else.
async fn ready_address(stdout: tokio::process::ChildStdout) -> Option<String> {
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

async fn drained(child: &mut Child, limit: Duration) -> String {
    // The id is there until the process has been waited for, so the signal cannot hit another.
    let process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(process) = process
        && let Err(error) = kill_process(process, Signal::TERM)
    {
        tracing::debug!(%error, "SIGTERM failed; the process has ended");
    }
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

//! The dispatcher's end of the channel by which it claims slots of a replica; see [`service::slot_channel`]. Only sends
//! and receives: the worker decides.

use crate::rotation::{Address, ReplicaId};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use service::fetch;
use service::slot_channel::{FromDispatcher, FromReplica, PATH, PROTOCOL};
use service::upgrade::{self, JsonLines, LineError};
use service::wire::header;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The longest time in which a replica must open the channel, and in which it must answer a question. A channel that does
/// not is closed: while its answer is awaited, fewer other replicas are asked.
const REPLY_TIMEOUT: Duration = Duration::from_millis(300);

/// What the worker learns from a channel.
#[derive(Debug)]
pub enum ChannelEvent {
    /// The replica has sent a message.
    Message(FromReplica),
    /// The channel has ended. The event is the last one of a channel.
    Ended(ChannelEnd),
}

/// The reason for which a channel has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelEnd {
    /// The replica has closed it. It can be opened again.
    Closed,
    /// The replica has not answered a question in time.
    Silent,
    /// The replica, or a proxy in front of it, knows no such channel.
    Refused,
    /// The replica could not be reached, or broke the protocol.
    Failed,
}

/// Opens a channel to the replica at `address` for the dispatcher with the number `dispatcher`, in a task of its own. The
/// task sends each event with the replica's `key`. The channel ends when the returned sender is dropped. Messages that are sent before
/// the channel is open wait; the worker sends each replica one question at a time, which bounds them.
pub fn open(
    address: Address,
    dispatcher: u64,
    key: ReplicaId,
    events: mpsc::Sender<(ReplicaId, ChannelEvent)>,
) -> mpsc::UnboundedSender<FromDispatcher> {
    let (sender, messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let name = HeaderValue::try_from(format!("{dispatcher:x}")).expect("hexadecimal digits are valid in a header");
        let name = (header::DISPATCHER_ID, name);
        let end = match upgrade::request(&address, PATH, PROTOCOL, name, REPLY_TIMEOUT).await {
            Ok(Ok(lines)) => match speak(lines, messages, key, &events).await {
                Ok(()) => ChannelEnd::Closed,
                Err(error) => {
                    tracing::debug!(%address, %error, "the channel to a replica has failed");
                    if matches!(error, ChannelError::NoReply) { ChannelEnd::Silent } else { ChannelEnd::Failed }
                }
            },
            // A replica that stops, or that has too many channels, may have room soon.
            Ok(Err(StatusCode::SERVICE_UNAVAILABLE)) => ChannelEnd::Failed,
            Ok(Err(_)) => ChannelEnd::Refused,
            Err(error) => {
                tracing::debug!(%address, %error, "no channel to a replica");
                if matches!(error, fetch::Error::Broken(..)) { ChannelEnd::Refused } else { ChannelEnd::Failed }
            }
        };
        // If the worker has ended, it claims nothing.
        let _ended = events.send((key, ChannelEvent::Ended(end))).await;
    });
    sender
}

/// The reason for which a channel fails.
#[derive(Debug, thiserror::Error)]
enum ChannelError {
    #[error(transparent)]
    Lines(#[from] LineError),
    #[error("the replica did not answer a question within {REPLY_TIMEOUT:?}")]
    NoReply,
}

/// Passes messages on until the replica closes the connection or the worker drops its sender.
async fn speak(
    mut lines: JsonLines,
    mut messages: mpsc::UnboundedReceiver<FromDispatcher>,
    key: ReplicaId,
    events: &mpsc::Sender<(ReplicaId, ChannelEvent)>,
) -> Result<(), ChannelError> {
    // The time at which the answer to a question must have arrived.
    let mut reply_by: Option<Instant> = None;
    loop {
        tokio::select! {
            line = lines.receive() => match line? {
                Some(message) => {
                    reply_by = None;
                    // While the worker is busy, the replica has to wait.
                    if events.send((key, ChannelEvent::Message(message))).await.is_err() {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
            message = messages.recv() => match message {
                Some(message) => {
                    if matches!(message, FromDispatcher::Ask(_) | FromDispatcher::Backlog { .. }) {
                        reply_by = reply_by.or_else(|| Some(Instant::now() + REPLY_TIMEOUT));
                    }
                    lines.send(&message).await?;
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(reply_by.unwrap_or_else(Instant::now)), if reply_by.is_some() => {
                return Err(ChannelError::NoReply);
            }
        }
    }
}

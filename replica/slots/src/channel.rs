//! Answers `GET /slots`: speaks with one dispatcher about the replica's slots, over a connection that both keep open. See
//! [`service::slot_channel`] for the messages.

use crate::{DispatcherId, SlotChannel, Slots};
use hyper::Request;
use service::respond::Reply;
use service::slot_channel::PROTOCOL;
use service::upgrade::{self, JsonLines, LineError};
use service::wire::{Code, RequestError, header};
use std::time::Duration;

/// The longest time for which a dispatcher may send nothing. It opens the channel again when it needs it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers the request for a channel. A dispatcher that gets none sends its requests without claims.
///
/// # Errors
/// If the request does not ask for the protocol or names no dispatcher (status 400), or if too many dispatchers have a
/// channel (503).
pub fn open<B>(slots: &Slots, request: &Request<B>) -> Result<Reply, RequestError> {
    let bad = |message| Err(RequestError::new(Code::BadRequest, message));
    if !upgrade::is_requested(request.version(), request.headers(), PROTOCOL) {
        return bad(format!("send the headers \"Connection: upgrade\" and \"Upgrade: {PROTOCOL}\" over HTTP/1.1"));
    }
    let Some(dispatcher) = DispatcherId::from_headers(request.headers())? else {
        return bad(format!("the header {} is missing", header::DISPATCHER_ID));
    };
    let Some(channel) = slots.open_channel(dispatcher) else {
        let message = "too many dispatchers have a channel";
        return Err(RequestError::new(Code::Busy, message).retry_after(Duration::from_secs(1)));
    };
    Ok(upgrade::accept(PROTOCOL, async move |lines| {
        if let Err(error) = serve(channel, lines).await {
            tracing::debug!(%error, "the channel to a dispatcher has failed");
        }
    }))
}

/// Speaks with the dispatcher until it closes the connection or is silent for too long.
async fn serve(mut channel: SlotChannel, mut lines: JsonLines) -> Result<(), LineError> {
    let idle = tokio::time::sleep(IDLE_TIMEOUT);
    tokio::pin!(idle);
    loop {
        let lease = channel.next_end();
        tokio::select! {
            // The replies are sent before the next line is read. Otherwise a dispatcher that reads slowly and asks often
            // would fill the channel.
            biased;
            message = channel.next_message() => match message {
                Some(message) => lines.send(&message).await?,
                None => return Ok(()),
            },
            line = lines.receive() => match line? {
                Some(message) => {
                    idle.as_mut().reset(tokio::time::Instant::now() + IDLE_TIMEOUT);
                    channel.handle(message);
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(lease.unwrap_or(IDLE_TIMEOUT)), if lease.is_some() => channel.end_leases(),
            () = &mut idle => return Ok(()),
        }
    }
}

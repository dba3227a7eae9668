//! Reading a request's body within a size and a time.

use crate::wire::{Code, Fault};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use std::time::{Duration, Instant};

/// What one body may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes at most.
    pub max_bytes: usize,
    /// From the first header to the last byte.
    pub timeout: Duration,
}

/// How much of a body that is too large is read and thrown away so that the client gets to see its 413: a connection
/// closed with unread bytes is reset, and the answer lost.
const DISCARD: usize = 64 << 20;

/// ... and for how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a whole body.
///
/// # Errors
/// 413 past the size, without having buffered more than that; 408 past the time; 504 past the request's deadline; 400
/// when the client stopped sending.
pub async fn read(body: Incoming, limits: Limits, deadline: Instant) -> Result<Bytes, Fault> {
    let read = tokio::time::timeout_at(deadline.into(), within(body, limits)).await;
    read.unwrap_or_else(|_elapsed| {
        Err(Fault::new(Code::DeadlineExceeded, "the deadline passed before the whole body was there"))
    })
}

async fn within(mut body: Incoming, limits: Limits) -> Result<Bytes, Fault> {
    let too_large = || {
        let message = format!("the body is over the limit of {} bytes", limits.max_bytes);
        Fault::new(Code::TooLarge, message)
    };
    if body.size_hint().lower() > limits.max_bytes as u64 {
        discard(body).await;
        return Err(too_large());
    }
    let collected = tokio::time::timeout(limits.timeout, Limited::new(&mut body, limits.max_bytes).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(too_large())
        }
        Ok(Err(error)) => Err(Fault::new(Code::BadRequest, format!("the body ended early: {error}"))),
        Err(_elapsed) => {
            let message = format!("the body did not arrive within {} s", limits.timeout.as_secs_f64());
            Err(Fault::new(Code::SlowBody, message))
        }
    }
}

async fn discard(mut body: Incoming) {
    let drain = async {
        let mut left = DISCARD;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whether it ended or was cut short, the answer comes next.
    let _elapsed = tokio::time::timeout(DISCARD_TIMEOUT, drain).await;
}

//! Asks a replica by `GET /readyz` whether it is ready. A probe and a liveness check are the same request. Knows nothing
//! of the replica's state.

use crate::own_fault;
use crate::rotation::{Address, ProbeAnswer};
use hyper::StatusCode;
use service::fetch;
use service::wire::ReadyBody;
use std::time::Duration;

/// Sends a replica a probe. A replica that does not tell its capacity counts as one with one slot.
pub async fn probe(address: &Address, timeout: Duration) -> ProbeAnswer {
    match fetch::get(address, "/readyz", timeout).await {
        Ok((status, body)) => classify(status, &body),
        Err(error) => {
            tracing::debug!(%address, %error, "no answer to a probe");
            let is_own =
                |cause| own_fault::is_own(cause) || own_fault::is_unresolved(cause) && own_fault::lacks_descriptors();
            if matches!(&error, fetch::Error::Connect(_, cause) if is_own(cause)) {
                ProbeAnswer::Unknown
            } else {
                ProbeAnswer::Silent
            }
        }
    }
}

fn classify(status: StatusCode, body: &[u8]) -> ProbeAnswer {
    match serde_json::from_slice::<ReadyBody>(body) {
        Ok(ReadyBody { ready: true, capacity }) if status == StatusCode::OK => {
            ProbeAnswer::Ready { capacity: capacity.unwrap_or(1) }
        }
        _ => ProbeAnswer::NotReady,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_200_with_the_body_of_a_ready_replica_is_ready() {
        for (status, body, expected) in [
            (200, r#"{"ready":true,"capacity":4}"#, ProbeAnswer::Ready { capacity: 4 }),
            (200, r#"{"ready":true}"#, ProbeAnswer::Ready { capacity: 1 }),
            (200, r#"{"ready":false,"capacity":4}"#, ProbeAnswer::NotReady),
            (503, r#"{"ready":true,"capacity":4}"#, ProbeAnswer::NotReady),
            (200, "ok", ProbeAnswer::NotReady),
            (404, "", ProbeAnswer::NotReady),
        ] {
            let status = StatusCode::from_u16(status).expect("the number is a valid status");
            assert_eq!(classify(status, body.as_bytes()), expected, "{status} {body}");
        }
    }
}

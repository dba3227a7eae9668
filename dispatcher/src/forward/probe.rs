//! Asks a replica whether it is ready.

use super::headers::MAX_CAPACITY;
use super::own_fault;
use crate::rotation::Address;
use hyper::StatusCode;
use service::fetch;
use service::wire::ReadyBody;
use std::time::Duration;

/// The pause before a probe that could not be sent is tried again.
const OWN_FAULT_PAUSE: Duration = Duration::from_millis(100);

/// Sends a replica a probe. Returns the capacity of the replica if `/readyz` says within `timeout` that it is ready,
/// and otherwise `None`. A replica that does not tell its capacity counts as one with one slot.
///
/// While this machine has no socket for the probe, the function waits and tries again. `None` would blame the replica.
pub async fn probe(address: &Address, timeout: Duration) -> Option<usize> {
    loop {
        match fetch::get(address, "/readyz", timeout).await {
            Ok((status, body)) => {
                let ready: ReadyBody = serde_json::from_slice(&body).ok()?;
                let capacity = ready.capacity.unwrap_or(1).min(MAX_CAPACITY);
                return (status == StatusCode::OK && ready.ready).then_some(capacity);
            }
            Err(fetch::Error::Connect(_, error)) if own_fault::is_own(&error) => {
                tokio::time::sleep(OWN_FAULT_PAUSE).await;
            }
            Err(_) => return None,
        }
    }
}

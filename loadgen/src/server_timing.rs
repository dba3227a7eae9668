//! The durations that a server's answer states. Pure.

/// The duration of each stage of one request, as the server states it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerTiming {
    /// Time in the dispatcher's queue, in milliseconds.
    pub queue_ms: f64,
    /// Time of decoding, in milliseconds.
    pub decode_ms: f64,
    /// Time that the decoded image waited for its forward pass, in milliseconds.
    pub batch_ms: f64,
    /// Time of the forward pass, in milliseconds.
    pub inference_ms: f64,
    /// Time from the request's arrival to its answer, in milliseconds.
    pub total_ms: f64,
}

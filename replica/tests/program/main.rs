//! Tests of the replica's program as a whole, over HTTP.

mod inference_protocol;
mod readiness;
mod replica;

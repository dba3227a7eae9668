//! Tests of the whole program of a replica, over HTTP.

mod inference_protocol;
mod readiness;
mod replica;
mod uploads;
mod work;

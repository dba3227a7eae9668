//! Tests of the whole program of a replica, over HTTP.

mod fetch;
mod forms;
mod hostile;
mod inference_protocol;
#[cfg(feature = "onnx")]
mod onnx;
mod readiness;
mod reload;
mod replica;
mod slots;
mod uploads;
mod work;

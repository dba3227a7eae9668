//! Distributed load: `loadgen run --workers` divides a load among processes `loadgen worker`, and adds up their
//! figures.
//!
//! The coordinator posts a [`task::Task`] with the bodies of all requests to each worker, waits until all are ready,
//! compares their clocks with its own, and names one start for all. Each worker sends its part, and streams
//! [`message::WorkerLine`]s as the answer to the task. If this connection closes, the worker stops its load.

pub mod client;
pub mod clock;
pub mod coordinator;
pub mod execution;
pub mod message;
pub mod part_recording;
pub mod part_seconds;
pub mod progress_lines;
pub mod report;
pub mod server;
pub mod task;
pub mod token;

//! ONNX networks that classify images, on the CPU in f32. This crate reads and checks the file, and ONNX Runtime computes
//! the network. ONNX is data: a network is a list of operators and their weights, and runs no code of its own.
//!
//! ONNX Runtime is a library that is loaded when the first network needs it. A program that never reads an ONNX file
//! works without the library.

mod external;
mod file;
mod protobuf;
mod runtime;
mod session;
mod signature;
mod size;
#[cfg(test)]
mod tests;

pub use file::File;
pub use session::Session;

/// Why an ONNX network cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("read {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The file is no ONNX, or its network is no classifier that this crate can run.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: String,
        /// Why the network cannot be used, and what to do.
        reason: String,
    },
}

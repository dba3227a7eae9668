//! ONNX Runtime's library, which is loaded once for the process.

use ort::environment::Environment;
use std::sync::{Arc, OnceLock};

/// The name of the library. The loader of the system finds it by `LD_LIBRARY_PATH`, by the rpath of the program, or among
/// the libraries of the system.
const LIBRARY: &str = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so.1" };

/// The loaded library.
///
/// # Errors
/// If the library cannot be found or is too old. The message says what to do.
pub(crate) fn environment() -> Result<&'static Environment, String> {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    ENVIRONMENT.get_or_init(load).as_ref().map_err(String::clone)
}

fn load() -> Result<Environment, String> {
    let builder = ort::init_from(LIBRARY).map_err(|error| {
        format!(
            "ONNX Runtime is needed and cannot be loaded: {error}; `cargo xtask libtorch` gets it, or set \
             LD_LIBRARY_PATH to the folder of {LIBRARY}, version 1.18 or newer"
        )
    })?;
    // Each error is also returned, so that the library need not write it to standard error.
    let silent = Arc::new(|_: ort::logging::LogLevel, _: &str, _: &str, _: &str, _: &str| {});
    let environment = builder.with_name("replica").with_telemetry(false).with_logger(silent).build();
    environment.map_err(|error| format!("ONNX Runtime does not start: {}", error.message()))
}

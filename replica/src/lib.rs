//! A replica: decodes pictures and classifies them with libtorch.

pub mod decode;
pub mod model;
pub mod preprocess;

//! A replica. It decodes images, classifies them in batches, and answers over HTTP.

pub mod batch;
mod bounded_file;
pub mod config;
pub mod decode;
pub mod handler;
pub mod image_text;
pub mod inference_protocol;
pub mod labels;
pub mod metrics;
pub mod model;
pub mod model_files;
pub mod model_loader;
pub mod multipart;
pub mod parameters;
pub mod pass_times;
pub mod pipeline;
pub mod preprocess;
pub mod ranking;
pub mod reload;
pub mod request_body;
pub mod served_model;
pub mod server;
pub mod softmax;
pub mod startup;
pub mod transform;
pub mod work;

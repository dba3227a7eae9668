//! A replica. It decodes images, classifies them in batches, and answers over HTTP.

pub mod accuracy;
pub mod batch;
pub mod command;
pub mod config;
pub mod decode;
pub mod handler;
pub mod image_text;
pub mod inference_protocol;
pub mod labels;
pub mod metrics;
pub mod model;
pub mod multipart;
pub mod parameters;
pub mod picture_folder;
pub mod pipeline;
pub mod preprocess;
pub mod quantise;
pub mod ranking;
pub mod request_body;
pub mod served_model;
pub mod server;
pub mod softmax;
pub mod startup;
pub mod transform;
pub mod work;

//! A replica: decodes pictures and classifies them.

pub mod batch;
pub mod config;
pub mod decode;
pub mod form;
pub mod handler;
pub mod inference_protocol;
pub mod labels;
pub mod model;
pub mod pipeline;
pub mod preprocess;
pub mod ranking;
pub mod served;
pub mod server;
pub mod softmax;
pub mod startup;
pub mod transform;

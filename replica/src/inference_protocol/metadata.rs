//! The metadata of the server and of its model, as JSON.

use super::output::OutputTensor;
use super::{IMAGE, INPUT, VERSION};
use crate::served_model::ServedModel;
use serde::Serialize;

/// The metadata of the server.
#[derive(Debug, Serialize)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 2],
}

impl ServerMetadata {
    /// The metadata of this server.
    pub const SELF: Self = Self {
        name: "roundhouse",
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "classification"],
    };
}

/// The metadata of a model. A request has one of the two inputs.
#[derive(Debug, Serialize)]
pub struct ModelMetadata<'a> {
    name: &'a str,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: [TensorMetadata; 2],
    outputs: [TensorMetadata; 3],
}

/// The metadata of an input or output tensor. In a shape, -1 stands for any length.
#[derive(Debug, Serialize)]
struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

impl<'a> ModelMetadata<'a> {
    /// The metadata of the served model.
    pub fn new(model: &'a ServedModel) -> Self {
        let (classes, side) = (model.labels.len() as i64, model.side() as i64);
        Self {
            name: &model.name,
            versions: [VERSION],
            platform: model.platform,
            inputs: [
                TensorMetadata { name: INPUT, datatype: "FP32", shape: vec![-1, 3, side, side] },
                TensorMetadata { name: IMAGE, datatype: "BYTES", shape: vec![-1] },
            ],
            outputs: OutputTensor::ALL.map(|tensor| match tensor {
                OutputTensor::Probabilities | OutputTensor::Logits => {
                    TensorMetadata { name: tensor.name(), datatype: "FP32", shape: vec![-1, classes] }
                }
                OutputTensor::Label => TensorMetadata { name: tensor.name(), datatype: "BYTES", shape: vec![-1] },
            }),
        }
    }
}

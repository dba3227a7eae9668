//! The metadata of the server and of its model, as JSON.

use super::output::OutputTensor;
use super::{IMAGE, INPUT, VERSION};
use crate::served_model::ServedModel;
use serde::Serialize;

/// The metadata of the server.
#[derive(Debug, Serialize)]
pub struct Server {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 2],
}

impl Server {
    /// The metadata of this server.
    pub const SELF: Self = Self {
        name: "roundhouse",
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "classification"],
    };
}

/// The metadata of a model. The two inputs are alternatives: a request has one of them.
#[derive(Debug, Serialize)]
pub struct Model<'a> {
    name: &'a str,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: [Tensor; 2],
    outputs: [Tensor; 3],
}

/// The metadata of an input or output; in a shape, -1 stands for any length.
#[derive(Debug, Serialize)]
struct Tensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

impl<'a> Model<'a> {
    /// The metadata of the served model.
    pub fn new(model: &'a ServedModel) -> Self {
        let (classes, side) = (model.labels.len() as i64, model.side as i64);
        Self {
            name: &model.name,
            versions: [VERSION],
            platform: "pytorch_libtorch",
            inputs: [
                Tensor { name: INPUT, datatype: "FP32", shape: vec![-1, 3, side, side] },
                Tensor { name: IMAGE, datatype: "BYTES", shape: vec![-1] },
            ],
            outputs: OutputTensor::ALL.map(|tensor| match tensor {
                OutputTensor::Probabilities | OutputTensor::Logits => {
                    Tensor { name: tensor.name(), datatype: "FP32", shape: vec![-1, classes] }
                }
                OutputTensor::Label => Tensor { name: tensor.name(), datatype: "BYTES", shape: vec![-1] },
            }),
        }
    }
}

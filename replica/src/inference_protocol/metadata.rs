//! What the server and its model say of themselves.

use super::output::Quantity;
use super::{IMAGE, INPUT, VERSION};
use crate::served::Served;
use serde::Serialize;

/// The server.
#[derive(Debug, Serialize)]
pub struct Server {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 2],
}

impl Server {
    /// This one.
    pub const SELF: Self = Self {
        name: "roundhouse",
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "classification"],
    };
}

/// A model. Its inputs are alternatives: a request has one of them.
#[derive(Debug, Serialize)]
pub struct Model<'a> {
    name: &'a str,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: [Tensor; 2],
    outputs: [Tensor; 3],
}

/// One input or output; -1 stands for any length.
#[derive(Debug, Serialize)]
struct Tensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

impl<'a> Model<'a> {
    /// The one that is served.
    pub fn new(served: &'a Served) -> Self {
        let (classes, side) = (served.labels.len() as i64, served.side as i64);
        Self {
            name: &served.name,
            versions: [VERSION],
            platform: "pytorch_libtorch",
            inputs: [
                Tensor { name: INPUT, datatype: "FP32", shape: vec![-1, 3, side, side] },
                Tensor { name: IMAGE, datatype: "BYTES", shape: vec![-1] },
            ],
            outputs: Quantity::ALL.map(|quantity| match quantity {
                Quantity::Probabilities | Quantity::Logits => {
                    Tensor { name: quantity.name(), datatype: "FP32", shape: vec![-1, classes] }
                }
                Quantity::Label => Tensor { name: quantity.name(), datatype: "BYTES", shape: vec![-1] },
            }),
        }
    }
}

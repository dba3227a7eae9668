//! What goes into a network and what comes out of it: whether it is a classifier of images, for how many images of which
//! size.

use crate::protobuf::{Dimension, FLOAT32, Graph, TensorType, Value, element_name};
use std::collections::HashSet;

/// The number of channels of an image.
const CHANNELS: i64 = 3;

/// The largest fixed batch. A batch that has fewer images is filled up with images of zeros, which costs their time.
const MAX_FIXED_BATCH: i64 = 64;

/// The largest side of an image, in pixels.
const MAX_SIDE: i64 = 4096;

/// The input and the output of a network that classifies images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The number of images that every pass takes; `None` if any number is possible.
    pub(crate) batch: Option<usize>,
    /// The side of the images in pixels; `None` if any side is possible.
    pub(crate) side: Option<usize>,
    /// Whether the last operator is a softmax, so that the output has probabilities instead of logits.
    pub(crate) is_softmax: bool,
}

impl Signature {
    /// The signature of a graph with one input `[n, 3, side, side]` and one output, both of `float32`.
    ///
    /// # Errors
    /// If the graph has other inputs or outputs. The message says which.
    pub(crate) fn of(graph: &Graph) -> Result<Self, String> {
        // Before version 4 of the format, each initializer is an input as well.
        let given: HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
        let inputs: Vec<&Value> = graph.inputs.iter().filter(|input| !given.contains(input.name.as_str())).collect();
        let outputs: Vec<&Value> = graph.outputs.iter().collect();
        let input = only("input", "an image", &inputs)?;
        let output = only("output", "logits", &outputs)?;
        tensor("output", output)?;
        let (batch, side) = image_shape(&input.name, tensor("input", input)?)?;
        let last = graph.nodes.iter().rfind(|node| node.outputs.contains(&output.name));
        let is_softmax = last.is_some_and(|node| node.operator == "Softmax" && node.domain.is_empty());
        Ok(Self { batch, side, is_softmax })
    }
}

/// The only one of the inputs or outputs.
fn only<'a>(kind: &str, meaning: &str, values: &[&'a Value]) -> Result<&'a Value, String> {
    match values {
        [one] => Ok(one),
        [] => Err(format!("the network has no {kind}, but a classifier has one, for {meaning}")),
        several => {
            let names: Vec<&str> = several.iter().take(8).map(|value| value.name.as_str()).collect();
            Err(format!(
                "the network has {} {kind}s ({}), but a classifier has one, for {meaning}; export it with only that one",
                several.len(),
                names.join(", ")
            ))
        }
    }
}

/// The type of an input or output that is a tensor of `float32`.
fn tensor<'a>(kind: &str, value: &'a Value) -> Result<&'a TensorType, String> {
    let name = &value.name;
    let tensor = value.of.as_ref().and_then(|of| of.tensor.as_ref());
    let tensor = tensor.ok_or_else(|| format!("the {kind} {name} is no tensor"))?;
    if tensor.element != FLOAT32 {
        return Err(format!(
            "the {kind} {name} has elements of {}; export the network with an {kind} of float32",
            element_name(tensor.element)
        ));
    }
    Ok(tensor)
}

/// The fixed number of images and their fixed side of a tensor `[n, 3, side, side]`.
fn image_shape(name: &str, tensor: &TensorType) -> Result<(Option<usize>, Option<usize>), String> {
    let Some(shape) = &tensor.shape else { return Ok((None, None)) };
    let dimensions = &shape.dimensions;
    let refused = |reason: &str| {
        let shape: Vec<String> = dimensions.iter().take(8).map(Dimension::to_string).collect();
        Err(format!("the input {name} has shape [{}]; {reason}", shape.join(", ")))
    };
    let lengths: Vec<Option<i64>> = dimensions.iter().map(|dimension| dimension.length).collect();
    let &[batch, channels, height, width] = lengths.as_slice() else {
        return refused("a classifier of images takes [n, 3, side, side]");
    };
    if width == Some(CHANNELS) && channels != Some(CHANNELS) {
        return refused("its channels are last; export the network with channels first, [n, 3, side, side]");
    }
    if channels.is_some_and(|channels| channels != CHANNELS) {
        return refused("images have 3 channels: red, green and blue");
    }
    if height.is_some() && width.is_some() && height != width {
        return refused("only square images are possible");
    }
    if batch.is_some_and(|batch| !(1..=MAX_FIXED_BATCH).contains(&batch)) {
        return refused("a fixed number of images may be 1 to 64; export the network with a dynamic batch");
    }
    let side = height.or(width);
    if side.is_some_and(|side| !(1..=MAX_SIDE).contains(&side)) {
        return refused("the side of an image may be 1 to 4096 pixels");
    }
    Ok((batch.map(|batch| batch as usize), side.map(|side| side as usize)))
}

//! The output tensors of the model, and the form in which a request wants one of them.

/// An output tensor of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputTensor {
    /// The softmax of the logits, FP32 `[n, classes]`.
    Probabilities,
    /// The model's scores, FP32 `[n, classes]`.
    Logits,
    /// The name of the likeliest class, BYTES `[n]`.
    Label,
}

impl OutputTensor {
    /// Every output tensor, in the order of the metadata.
    pub const ALL: [Self; 3] = [Self::Probabilities, Self::Logits, Self::Label];

    /// The name of the tensor in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probabilities => "probabilities",
            Self::Logits => "logits",
            Self::Label => "label",
        }
    }

    /// The output tensor of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tensor| tensor.name() == name)
    }
}

/// An output that a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedOutput {
    /// The tensor.
    pub tensor: OutputTensor,
    /// With the classification extension: the number of best classes, each as `score:index:label`. `None` for the
    /// scores of all classes.
    pub best: Option<usize>,
    /// Whether the data follows the JSON as bytes (the binary tensor data extension) instead of being a part of it.
    pub binary: bool,
}

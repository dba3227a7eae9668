//! The output tensors of the model, and the form in which a request asks for one of them.

/// An output tensor of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputTensor {
    /// The softmax of the logits; FP32 `[n, classes]`.
    Probabilities,
    /// The scores of all classes; FP32 `[n, classes]`.
    Logits,
    /// The name of the likeliest class; BYTES `[n]`.
    Label,
}

impl OutputTensor {
    /// Every output tensor, in the order in which the metadata lists them.
    pub const ALL: [Self; 3] = [Self::Probabilities, Self::Logits, Self::Label];

    /// The tensor's name in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probabilities => "probabilities",
            Self::Logits => "logits",
            Self::Label => "label",
        }
    }

    /// The output tensor whose name is `name`; `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tensor| tensor.name() == name)
    }
}

/// An output that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedOutput {
    /// The tensor that the output is made of.
    pub tensor: OutputTensor,
    /// The number of best classes in the output, each as `score:index:label` (the classification extension). `None` for
    /// the scores of all classes.
    pub best: Option<usize>,
    /// Whether the data follows the JSON as bytes (the binary tensor data extension). Otherwise it is a part of the
    /// JSON.
    pub binary: bool,
}

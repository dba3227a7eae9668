//! The tensors that the model answers with, and how a request wants one of them.

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Softmax of the logits.
    Probabilities,
    /// As the model gives them.
    Logits,
    /// The likeliest class in words.
    Label,
}

impl Quantity {
    /// Every one, in the order of the metadata.
    pub const ALL: [Self; 3] = [Self::Probabilities, Self::Logits, Self::Label];

    /// Its name in requests and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Probabilities => "probabilities",
            Self::Logits => "logits",
            Self::Label => "label",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quantity| quantity.name() == name)
    }
}

/// A tensor that a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Of what.
    pub quantity: Quantity,
    /// So many of the best classes as `score:index:label`, instead of every class's score.
    pub best: Option<usize>,
    /// As bytes after the JSON rather than in it.
    pub binary: bool,
}

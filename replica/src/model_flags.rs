//! The flags that name the files of a model.

use crate::model::{Architecture, ModelSource, WeightsSource};
use std::path::PathBuf;

/// Flags that name a model, which is data. Without them, the model is the bundled one.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("model_files").args(["weights", "model"]))]
pub struct ModelFlags {
    /// File of a network: the weights of a residual network, as torchvision, timm or transformers write them
    /// (.safetensors, .pth, .pt, .bin or .ckpt), or any classifier from [n, 3, side, side] to [n, classes] as .onnx, such
    /// as vit.onnx; by default the bundled model
    #[arg(long, env = "ROUNDHOUSE_WEIGHTS", conflicts_with = "model")]
    pub weights: Option<PathBuf>,
    /// Directory with such a file, and perhaps config.json and preprocessor_config.json of transformers, config.json of
    /// timm, and labels.txt with one name on each line. Flags win over these files, and these files over the metadata
    /// in the weights
    #[arg(long, env = "ROUNDHOUSE_MODEL", value_name = "DIRECTORY")]
    pub model: Option<PathBuf>,
    /// Place of the weights in a file that has several, such as model_ema or state_dict.teacher; by default the place
    /// is found, and moving averages (EMA) are used only if there are no other weights
    #[arg(long, env = "ROUNDHOUSE_WEIGHTS_KEY", requires = "model_files")]
    pub weights_key: Option<String>,
    /// Architecture that the weights must have, such as resnet50 or resnext50_32x4d; by default the names and shapes of
    /// the tensors tell it
    #[arg(long, env = "ROUNDHOUSE_ARCHITECTURE", requires = "model_files")]
    pub architecture: Option<Architecture>,
}

impl ModelFlags {
    /// The source of the model that the flags name.
    pub fn source(self) -> ModelSource {
        let Self { weights, model, weights_key: key, architecture } = self;
        let source = |path| WeightsSource { path, key, architecture };
        match (weights, model) {
            (Some(path), _) => ModelSource::Weights(source(path)),
            (None, Some(path)) => ModelSource::Directory(source(path)),
            (None, None) => ModelSource::Bundled,
        }
    }
}

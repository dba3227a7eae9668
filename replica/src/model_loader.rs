//! Loads the model with its labels and its transform, at the start and again when its files have changed.

use crate::labels::LabelSource;
use crate::model::{ModelFactory, ModelFile, ModelSource, Setup};
use crate::model_files::ModelFiles;
use crate::pipeline::LoadedModel;
use crate::served_model::ServedModel;
use crate::transform::{Transform, TransformFlags};
use anyhow::{Result, bail};

/// How often the model is loaded at the start, if its files change meanwhile.
const TRIES: usize = 3;

/// Where the model comes from, and how it is run.
pub struct ModelLoader {
    /// The source of the model.
    pub source: ModelSource,
    /// The files of the model and of its labels.
    pub files: ModelFiles,
    /// The settings with which the model runs.
    pub setup: Setup,
    /// The values of the transform that override those of the model's files.
    pub transform: TransformFlags,
    /// The source of the class names.
    pub labels: LabelSource,
    /// The least share of pictures, 0 to 1, for which a model in 8-bit integers must give the same class as in f32.
    pub min_agreement: f64,
}

impl ModelLoader {
    /// Loads the model, and meanwhile hashes its files. Loads it again if the files have changed meanwhile: otherwise an
    /// old model could have the version of the new files, and would never be replaced.
    ///
    /// # Errors
    /// If a file cannot be read, the model or its labels cannot be used, or the files change during every try.
    pub fn load(&self) -> Result<LoadedModel<ModelFactory>> {
        for _try in 0..TRIES {
            let before = self.files.snapshot()?;
            let loaded = std::thread::scope(|scope| -> Result<_> {
                let version = scope.spawn(|| self.files.version());
                let loaded = self.load_files()?;
                let version = version.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(with_version(loaded, version))
            })?;
            if self.files.snapshot()? == before {
                return Ok(loaded);
            }
            tracing::warn!("the files of the model changed while they were loaded");
        }
        bail!("the files of the model change all the time; start the replica when they are written")
    }

    /// Loads the model if its files have another version than the `present` one. Otherwise returns `None`, as for a file
    /// that was only touched.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_other(&self, present: &str) -> Result<Option<LoadedModel<ModelFactory>>> {
        let version = self.files.version()?;
        if version == present {
            return Ok(None);
        }
        Ok(Some(with_version(self.load_files()?, version)))
    }

    /// Loads the model, whose version stays empty.
    fn load_files(&self) -> Result<LoadedModel<ModelFactory>> {
        let file = ModelFile::open(&self.source)?;
        file.verify(self.min_agreement)?;
        let (name, platform, description) = (file.name(), file.platform(), file.description());
        let (transform, sources) = Transform::of_model(&self.transform, &description);
        tracing::info!("transform: {sources}");
        let factory = ModelFactory::new(file, transform.crop as usize, self.setup)?;
        let labels = self.labels.load(description.labels, factory.classes())?;
        let has_embeddings = factory.has_embeddings();
        let version = String::new();
        Ok(LoadedModel { factory, model: ServedModel { name, platform, version, labels, transform, has_embeddings } })
    }
}

/// Gives a loaded model its version, and logs it.
fn with_version(mut loaded: LoadedModel<ModelFactory>, version: String) -> LoadedModel<ModelFactory> {
    let LoadedModel { factory, model } = &mut loaded;
    model.version = version;
    let ServedModel { name, version, labels, .. } = model;
    tracing::info!(model = name, version, classes = labels.len(), computed_by = %factory, "the model is loaded");
    loaded
}

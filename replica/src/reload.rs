//! Replaces the model when its files have changed. A model that cannot be used is refused: it is logged and counted, and
//! the present one goes on.

use crate::metrics::{self, ReloadOutcome};
use crate::model_files::{ModelFiles, Snapshot};
use crate::pipeline::{CreateModel, LoadedModel, Reloader};
use std::io;
use std::time::Duration;

/// Sees when files have changed and are whole again. Pure: the caller looks.
#[derive(Debug)]
pub struct Watch {
    /// The state of the files that was last loaded or tried.
    tried: Option<Snapshot>,
    /// The state at the look before; `None` if the files could not be read.
    before: Option<Snapshot>,
}

/// What a look at the files has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// The files are those that were loaded or tried, or are just being written.
    Nothing,
    /// The files have changed, and are the same as at the look before. Files that are written in place change at every
    /// look.
    Changed,
    /// The files could be read at the look before, and no longer can.
    Missing(String),
}

impl Watch {
    /// Watches files that are being loaded in the state `loaded`.
    pub fn new(loaded: io::Result<Snapshot>) -> Self {
        let loaded = loaded.ok();
        Self { tried: loaded.clone(), before: loaded }
    }

    /// Takes a look at the files.
    pub fn look(&mut self, now: io::Result<Snapshot>) -> Finding {
        let (now, error) = match now {
            Ok(now) => (Some(now), String::new()),
            Err(error) => (None, error.to_string()),
        };
        let before = std::mem::replace(&mut self.before, now.clone());
        match now {
            None => {
                // Files that are back are tried, also if they are the same.
                self.tried = None;
                if before.is_some() { Finding::Missing(error) } else { Finding::Nothing }
            }
            Some(_) if now != before || now == self.tried => Finding::Nothing,
            Some(_) => {
                self.tried = now;
                Finding::Changed
            }
        }
    }
}

/// Looks at `files` every `interval`, and replaces the model when they have changed. `load` gets the present version, and
/// returns no model if the files have that version, too. Returns when the pipeline has ended.
pub fn run<F: CreateModel>(
    files: &ModelFiles,
    mut watch: Watch,
    interval: Duration,
    mut reloader: Reloader,
    load: impl Fn(&str) -> anyhow::Result<Option<LoadedModel<F>>>,
) {
    loop {
        std::thread::sleep(interval);
        let Some(version) = reloader.version() else { return };
        match watch.look(files.snapshot()) {
            Finding::Nothing => {}
            Finding::Missing(reason) => {
                metrics::stale().set(1.0);
                tracing::warn!(%reason, version, "the files of the model cannot be read; the loaded model goes on");
            }
            Finding::Changed => replace(&mut reloader, &version, &load),
        }
    }
}

fn replace<F: CreateModel>(
    reloader: &mut Reloader,
    version: &str,
    load: &impl Fn(&str) -> anyhow::Result<Option<LoadedModel<F>>>,
) {
    let replaced = reloader.replace(|| load(version));
    // The memory of the old model, or of the attempt.
    convolution::memory::return_freed_memory();
    match replaced {
        Ok(replaced) => {
            metrics::stale().set(0.0);
            if let (Some(old), Some(new)) = (replaced, reloader.version()) {
                metrics::reloads(ReloadOutcome::Replaced).increment(1);
                metrics::model_info(old.clone()).set(0.0);
                metrics::model_info(new.clone()).set(1.0);
                tracing::info!(old, new, "the model was replaced, because its files have changed");
            }
        }
        Err(error) => {
            metrics::stale().set(1.0);
            metrics::reloads(ReloadOutcome::Refused).increment(1);
            tracing::error!(
                error = format!("{error:#}"),
                version,
                "the changed model is refused; the loaded one goes on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_reported_once_when_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("w");
        let files = ModelFiles::new(vec![path.clone()]);
        fs::write(&path, "1").expect("written");
        let mut watch = Watch::new(files.snapshot());
        let mut look = || watch.look(files.snapshot());
        assert_eq!([look(), look()], [Finding::Nothing, Finding::Nothing]);
        for length in 2..5 {
            fs::write(&path, "x".repeat(length)).expect("written");
            assert_eq!(look(), Finding::Nothing, "it is still being written");
        }
        assert_eq!([look(), look(), look()], [Finding::Changed, Finding::Nothing, Finding::Nothing]);
        fs::remove_file(&path).expect("removed");
        assert!(matches!(look(), Finding::Missing(reason) if reason.contains("w")));
        assert_eq!(look(), Finding::Nothing);
        fs::write(&path, "another").expect("written");
        assert_eq!([look(), look(), look()], [Finding::Nothing, Finding::Changed, Finding::Nothing]);
        let away = folder.path().join("away");
        fs::rename(&path, &away).expect("renamed");
        assert!(matches!(look(), Finding::Missing(_)));
        fs::rename(&away, &path).expect("renamed");
        assert_eq!([look(), look(), look()], [Finding::Nothing, Finding::Changed, Finding::Nothing]);
    }
}

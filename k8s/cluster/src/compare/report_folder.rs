//! The folder with the reports of a comparison: a report for each finished run, the workload, and the settings that all
//! runs have. With it, a comparison that was stopped goes on.

use crate::local::Cores;
use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use workload::Workload;

/// The file with the settings.
const SETTINGS: &str = "settings.json";

/// The longest file with settings, in bytes.
const MAX_SETTINGS_BYTES: u64 = 1 << 16;

/// The folder with the reports of a comparison.
#[derive(Debug)]
pub(super) struct ReportFolder {
    folder: PathBuf,
    settings: Settings,
}

/// The settings that all runs of a comparison have.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The name of the workload file in the folder.
    workload: String,
    /// The factor of the workload's length.
    time_scale: f64,
    /// The factor of the workload's rates; `None` until it was measured.
    rate_scale: Option<f64>,
    /// The number of cores of the node; `None` in a folder of a version that did not note it.
    cores: Option<f64>,
    /// The processor time of a core of the node, as a share of a core of this machine; `None` as for `cores`.
    share: Option<f64>,
}

impl ReportFolder {
    /// Makes a folder in `parent`, which is named after the present time, and copies the workload into it. The runs are on a
    /// node with these `cores`.
    ///
    /// # Errors
    /// If the workload is invalid, or the folder cannot be made.
    pub(super) fn create(parent: &Path, workload: &Path, time_scale: f64, cores: Cores) -> Result<Self> {
        ensure!(time_scale > 0.0 && time_scale <= 1e3, "--time-scale ({time_scale}) must be above 0 and at most 1000");
        let name = workload.file_name().with_context(|| format!("--workload {} is no file", workload.display()))?;
        let name = name.to_str().with_context(|| format!("the name of {} is not UTF-8", workload.display()))?;
        // The reports and the settings are JSON files beside the copy.
        ensure!(!name.ends_with(".json"), "--workload {} must not end with .json; rename the file", workload.display());
        let text = fs::read_to_string(workload).with_context(|| format!("read workload {}", workload.display()))?;
        text.parse::<Workload>().with_context(|| format!("parse workload {}", workload.display()))?;
        let folder = parent.join(Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string());
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let copy = folder.join(name);
        fs::write(&copy, text).with_context(|| format!("write {}", copy.display()))?;
        let (cores, share) = (Some(cores.count), Some(cores.share));
        let settings = Settings { workload: name.into(), time_scale, rate_scale: None, cores, share };
        let created = Self { folder, settings };
        created.write_settings()?;
        Ok(created)
    }

    /// The folder of a comparison that was stopped. It goes on with a node that has these `cores`.
    ///
    /// # Errors
    /// If the folder has no valid settings, or its runs were on other cores.
    pub(super) fn open(folder: &Path, cores: Cores) -> Result<Self> {
        let path = folder.join(SETTINGS);
        let settings = read_settings(&path)
            .with_context(|| format!("--resume {}: read {SETTINGS}, as a comparison writes it", folder.display()))?;
        for (flag, before, now) in [("cores", settings.cores, cores.count), ("share", settings.share, cores.share)] {
            // A float in JSON may lose its last digit.
            ensure!(
                before.is_none_or(|before| (before - now).abs() <= 1e-9),
                "--resume {}: its runs had --{flag} {}, and not {now}; give --{flag} as before",
                folder.display(),
                before.unwrap_or_default()
            );
        }
        Ok(Self { folder: folder.into(), settings })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the file `name` in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The path of the workload file.
    pub(super) fn workload(&self) -> PathBuf {
        self.path(&self.settings.workload)
    }

    /// The factor of the workload's length.
    pub(super) fn time_scale(&self) -> f64 {
        self.settings.time_scale
    }

    /// The length of a run.
    ///
    /// # Errors
    /// If the workload cannot be read.
    pub(super) fn length(&self) -> Result<Duration> {
        let path = self.workload();
        let text = fs::read_to_string(&path).with_context(|| format!("read workload {}", path.display()))?;
        let workload: Workload = text.parse().with_context(|| format!("parse workload {}", path.display()))?;
        Ok(Duration::from_secs(workload.per_second.len() as u64).mul_f64(self.settings.time_scale))
    }

    /// The factor of the workload's rates; `None` until it was measured.
    pub(super) fn rate_scale(&self) -> Option<f64> {
        self.settings.rate_scale
    }

    /// Notes the measured factor of the workload's rates.
    ///
    /// # Errors
    /// If the settings cannot be written.
    pub(super) fn set_rate_scale(&mut self, scale: f64) -> Result<()> {
        self.settings.rate_scale = Some(scale);
        self.write_settings()
    }

    fn write_settings(&self) -> Result<()> {
        let path = self.path(SETTINGS);
        let text = serde_json::to_string_pretty(&self.settings)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

fn read_settings(path: &Path) -> Result<Settings> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SETTINGS_BYTES).read_to_string(&mut text)?;
    let settings: Settings = serde_json::from_str(&text)?;
    let Settings { workload, time_scale, rate_scale, .. } = &settings;
    ensure!(Path::new(workload).file_name().is_some_and(|name| name == workload.as_str()), "workload is no file name");
    ensure!(*time_scale > 0.0 && *time_scale <= 1e3, "time_scale must be above 0 and at most 1000");
    ensure!(rate_scale.is_none_or(|scale| scale > 0.0), "rate_scale must be above 0");
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORES: Cores = Cores { count: 8.0, share: 0.5 };

    #[test]
    fn a_comparison_goes_on_with_its_workload_and_its_rates() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let workload = parent.path().join("two.txt");
        fs::write(&workload, "30 40\n").expect("written");
        let mut created = ReportFolder::create(&parent.path().join("all"), &workload, 2.5, CORES).expect("created");
        created.set_rate_scale(0.3).expect("written");
        fs::write(&workload, "changed since then").expect("written");
        let opened = ReportFolder::open(created.folder(), CORES).expect("it is such a folder");
        assert_eq!((opened.time_scale(), opened.rate_scale()), (2.5, Some(0.3)));
        assert_eq!(opened.length().expect("the workload was copied"), Duration::from_secs(5));
        for (cores, word) in [
            (Cores { count: 4.0, ..CORES }, "had --cores 8, and not 4"),
            (Cores { share: 0.25, ..CORES }, "had --share 0.5, and not 0.25"),
        ] {
            let error = ReportFolder::open(created.folder(), cores).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn errors_name_the_invalid_file_or_flag() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| parent.path().join(name);
        fs::write(path("bad.txt"), "5 x").expect("written");
        fs::write(path("good.txt"), "5").expect("written");
        fs::write(path("settings.json"), "5").expect("written");
        for (workload, time_scale, word) in [
            ("bad.txt", 1.0, "bad.txt"),
            ("gone.txt", 1.0, "gone.txt"),
            ("settings.json", 1.0, "settings.json must not end with .json"),
            ("good.txt", 0.0, "--time-scale (0)"),
            ("good.txt", f64::NAN, "--time-scale (NaN)"),
        ] {
            let error = ReportFolder::create(&path("all"), &path(workload), time_scale, CORES).expect_err("refused");
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        for text in [
            "",
            "{}",
            r#"{"workload":"../a","time_scale":1.0,"rate_scale":null}"#,
            r#"{"workload":"a","time_scale":-1.0,"rate_scale":null}"#,
            r#"{"workload":"a","time_scale":1.0,"rate_scale":0.0}"#,
            &" ".repeat(MAX_SETTINGS_BYTES as usize + 1),
        ] {
            fs::write(path(SETTINGS), text).expect("written");
            let error = ReportFolder::open(parent.path(), CORES).expect_err("refused");
            assert!(format!("{error:#}").contains(SETTINGS), "{text}: {error:#}");
        }
        assert!(ReportFolder::open(&path("gone"), CORES).is_err());
    }
}

//! `replica quantize`: writes a file of 8-bit weights, with scales of the activations that fit a folder of pictures.

use crate::accuracy::threads;
use crate::model::{Agreement, Calibration, ModelFile};
use crate::model_flags::ModelFlags;
use crate::picture_folder::PictureFolder;
use crate::ranking::likeliest;
use crate::transform::{Transform, TransformFlags};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// With fewer pictures than this number, one picture is more than a percent of the agreement.
const ENOUGH: u64 = 100;

/// The agreement that `--min-agreement` demands by default.
const USUAL_AGREEMENT: f64 = 0.99;

/// Flags of `replica quantize`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  replica quantize --weights resnet50.pth --calibrate pictures --output int8.safetensors\n  \
                        replica --weights int8.safetensors --precision int8"
)]
pub struct Args {
    /// The flags that name the f32 weights.
    #[command(flatten)]
    files: ModelFlags,
    /// Folder of pictures of the kind that the model will get, some hundreds; subfolders are read, too
    #[arg(long)]
    calibrate: PathBuf,
    /// File to write, .safetensors; replica --weights FILE --precision int8 serves it
    #[arg(long, value_parser = safetensors)]
    output: PathBuf,
    /// Most pictures that are read; of more, pictures at equal distances in the order of their names are taken
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_pictures: u32,
    /// The flags of the transform, which is written to the file.
    #[command(flatten)]
    transform: TransformFlags,
}

/// Calibrates, writes the file, and prints how often it agrees with f32.
///
/// # Errors
/// If the weights or the pictures cannot be read, or the file cannot be written.
pub fn run(args: Args) -> Result<()> {
    check_output(&args.files, &args.output)?;
    let file = ModelFile::open(&args.files.source())?;
    let (transform, _) = Transform::of_model(&args.transform, &file.description());
    let ModelFile::Weights(weights, architecture) = file else {
        bail!("{} has no f32 weights of a residual network; give the file that it was made of", file.name());
    };
    let folder = PictureFolder::list(&args.calibrate, args.max_pictures as usize)?;
    let threads = threads();
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    let mut calibration = Calibration::new(weights, architecture, transform)?;
    let mut classes = Vec::new();
    folder.read(&transform, &[], "calibrating in f32", |picture| {
        classes.push(likeliest(&calibration.observe(&picture.input)?));
        Ok(())
    })?;
    let mut file = calibration.quantise()?;
    let mut model = file.model(transform.crop as usize, threads)?;
    let mut agreement = Agreement::default();
    let mut classes = classes.into_iter();
    folder.read(&transform, &[], "comparing 8-bit integers", |picture| {
        let logits = model.logits(&[picture.input])?.concat();
        let class = classes.next().context("a picture was added to the folder during the calibration")?;
        agreement.count(likeliest(&logits) == class);
        Ok(())
    })?;
    file.agreement = agreement;
    file.write(&args.output)?;
    println!("wrote {}: the same class as in f32 for {agreement}", args.output.display());
    if agreement.pictures < ENOUGH {
        println!("with fewer than {ENOUGH} pictures, the scales and the agreement say little; calibrate with more");
    }
    if agreement.share() < USUAL_AGREEMENT {
        println!("replica --precision int8 refuses the file unless --min-agreement is lowered");
    }
    Ok(())
}

/// Checks that writing `output` replaces no file of the f32 weights.
///
/// # Errors
/// If `output` is the file of `--weights`, is in the directory of `--model`, or is a file to which that directory has a
/// link.
fn check_output(files: &ModelFlags, output: &Path) -> Result<()> {
    let shown = output.display();
    if let Some(weights) = &files.weights {
        ensure!(!is_same(weights, output), "--output {shown} would replace --weights; give another name");
    }
    if let Some(model) = &files.model {
        // The output may not exist yet, but its folder must.
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_within =
            model.canonicalize().is_ok_and(|model| folder.canonicalize().is_ok_and(|f| f.starts_with(model)));
        let entries = model.read_dir().into_iter().flatten().flatten();
        ensure!(
            !is_within && !entries.map(|entry| entry.path()).any(|path| is_same(&path, output)),
            "--output {shown} is in the directory of --model, or a file of that directory, so it could replace the f32 \
             weights; give a path outside of the directory"
        );
    }
    Ok(())
}

/// Whether two paths name the same file.
fn is_same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// Parses a path that ends with .safetensors.
fn safetensors(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().is_some_and(|ending| ending == "safetensors") {
        true => Ok(path),
        false => Err("the name must end with .safetensors, such as int8.safetensors".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_output_that_could_replace_the_f32_weights_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("model/sub")).expect("folders");
        for name in ["model/model.safetensors", "linked.safetensors", "weights.safetensors"] {
            std::fs::write(at(name), "f32").expect("written");
        }
        symlink(at("linked.safetensors"), at("model/link.safetensors")).expect("a link");
        symlink(at("model"), at("other")).expect("a link");
        let files = |weights: Option<&str>, model: Option<&str>| ModelFlags {
            weights: weights.map(at),
            model: model.map(at),
            weights_key: None,
            architecture: None,
        };
        for (weights, model, output, expected) in [
            (Some("weights.safetensors"), None, "weights.safetensors", Some("replace --weights")),
            (Some("weights.safetensors"), None, "model/../weights.safetensors", Some("replace --weights")),
            (Some("weights.safetensors"), None, "int8.safetensors", None),
            (None, Some("model"), "model/model.safetensors", Some("directory of --model")),
            (None, Some("model"), "model/int8.safetensors", Some("directory of --model")),
            (None, Some("model"), "model/sub/int8.safetensors", Some("directory of --model")),
            (None, Some("model"), "other/int8.safetensors", Some("directory of --model")),
            (None, Some("other"), "model/int8.safetensors", Some("directory of --model")),
            (None, Some("model"), "linked.safetensors", Some("directory of --model")),
            (None, Some("model"), "int8.safetensors", None),
            (None, Some("model"), "weights.safetensors", None),
            (None, None, "int8.safetensors", None),
        ] {
            let refused = check_output(&files(weights, model), &at(output)).err().map(|error| error.to_string());
            match (refused, expected) {
                (None, None) => {}
                (Some(reason), Some(expected)) => assert!(reason.contains(expected), "{output}: {reason}"),
                (refused, _) => panic!("{output}: {refused:?}"),
            }
        }
    }
}

//! `replica accuracy`: compares the precisions of a model on a folder of pictures.

use crate::labels::LabelSource;
use crate::model::{
    Description, Device, KernelChoice, Model, ModelFactory, ModelFile, Precision, QuantisedFile, Setup,
};
use crate::model_flags::ModelFlags;
use crate::picture_folder::PictureFolder;
use crate::ranking::best_classes;
use crate::transform::{Transform, TransformFlags};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Number of classes among which the right one must be for the columns top-5.
const TOP: usize = 5;

/// Flags of `replica accuracy`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  replica accuracy --weights resnet50.pth --quantized int8.safetensors --pictures pictures\n\n\
                  The top-1 agreement is the share of pictures with the same likeliest class as in f32, and the top-5 \
                  agreement the share of those whose likeliest class in f32 is among the five likeliest. If the pictures are \
                  in subfolders with the names of the classes, or labels.csv has lines FILE,CLASS, the shares of the right \
                  classes are printed, too."
)]
pub struct Args {
    /// The flags that name the f32 weights.
    #[command(flatten)]
    files: ModelFlags,
    /// File of 8-bit weights that replica quantize has written of the same weights
    #[arg(long)]
    quantized: Option<PathBuf>,
    /// Folder of pictures, other than those of the calibration; subfolders are read, too
    #[arg(long)]
    pictures: PathBuf,
    /// Most pictures that are read; of more, pictures at equal distances in the order of their names are taken
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_pictures: u32,
    /// Names of the classes: weights (the names in the weights' metadata), imagenet, or a file with one name on each
    /// line
    #[arg(long, env = "ROUNDHOUSE_LABELS", default_value = "weights")]
    labels: LabelSource,
    /// The flags of the transform from pixels to the model's input.
    #[command(flatten)]
    transform: TransformFlags,
}

/// Compares the precisions, and prints a table.
///
/// # Errors
/// If a model or the pictures cannot be read or computed.
pub fn run(args: Args) -> Result<()> {
    let source = args.files.source();
    let description = f32_weights(ModelFile::open(&source)?)?;
    let quantised = args.quantized.as_deref().map(open_quantised).transpose()?;
    let (transform, _) = Transform::of_model(&args.transform, &description);
    let folder = PictureFolder::list(&args.pictures, args.max_pictures as usize)?;
    let side = transform.crop as usize;
    let mut candidates = Vec::new();
    let mut classes = 0;
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        let setup =
            Setup { kernel: KernelChoice::Auto, device: Device::Cpu, precision, threads: threads(), max_batch: 1 };
        let factory = ModelFactory::new(ModelFile::open(&source)?, side, setup)?;
        classes = factory.classes();
        candidates.push(Candidate::new(name, factory.model()?));
    }
    if let Some(file) = quantised {
        check_classes(file.classes(), classes)?;
        candidates.push(Candidate::new("int8", file.model(side, threads())?));
    }
    let labels = args.labels.load(description.labels, classes)?;
    let mut labelled = 0;
    let pictures = folder.read(&transform, &labels, "comparing precisions", |picture| {
        labelled += u64::from(picture.class.is_some());
        let mut reference = None;
        for candidate in &mut candidates {
            let start = Instant::now();
            let logits = candidate.model.logits(std::slice::from_ref(&picture.input))?.concat();
            candidate.time += start.elapsed();
            let best = best_classes(&logits, TOP);
            let reference = *reference.get_or_insert(best[0]);
            candidate.agreement.count(&best, Some(reference));
            candidate.accuracy.count(&best, picture.class);
        }
        Ok(())
    })?;
    println!(
        "{pictures} pictures, {labelled} of known classes; the time is that of a forward pass of {} threads",
        threads()
    );
    println!("{}", heading());
    candidates.iter().for_each(|candidate| println!("{}", candidate.row(pictures, labelled)));
    Ok(())
}

/// What the files of f32 weights say about the model.
///
/// # Errors
/// If `file` has no f32 weights of a residual network.
fn f32_weights(file: ModelFile) -> Result<Description> {
    match file {
        ModelFile::Weights(..) => Ok(file.description()),
        ModelFile::Quantised(_) => {
            bail!(
                "--weights has 8-bit weights; give them as --quantized, and the f32 weights they were made of as --weights"
            )
        }
        _ => bail!("{} is no residual network with f32 weights, so it has one precision only", file.name()),
    }
}

/// Reads the file of `--quantized`.
///
/// # Errors
/// If the file cannot be read, or is none of 8-bit weights.
fn open_quantised(path: &Path) -> Result<QuantisedFile> {
    std::fs::File::open(path).with_context(|| format!("read --quantized {}", path.display()))?;
    let file = QuantisedFile::open(path)?;
    file.with_context(|| format!("--quantized {}: replica quantize has not written this file", path.display()))
}

/// Checks that the 8-bit weights have as many classes as the f32 weights.
fn check_classes(quantised: usize, of_f32: usize) -> Result<()> {
    ensure!(
        quantised == of_f32,
        "the file of --quantized has {quantised} classes, but the f32 weights have {of_f32}; give the file that replica \
         quantize has written of these weights"
    );
    Ok(())
}

/// The processors that this process may use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How often a class was the likeliest, and among the [`TOP`] likeliest.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hits {
    first: u64,
    among: u64,
}

impl Hits {
    /// Counts a picture whose likeliest classes are `best`, if the wanted class is known.
    fn count(&mut self, best: &[usize], wanted: Option<usize>) {
        if let Some(wanted) = wanted {
            self.first += u64::from(best.first() == Some(&wanted));
            self.among += u64::from(best.contains(&wanted));
        }
    }

    /// Both shares of `pictures` in percent, as two columns of the table.
    fn columns(&self, pictures: u64) -> String {
        let share = |hits: u64| match pictures {
            0 => "-".to_owned(),
            _ => format!("{:.2} %", hits as f64 / pictures as f64 * 100.0),
        };
        format!("{:>16}{:>16}", share(self.first), share(self.among))
    }
}

/// One precision: its model, and the counts so far.
struct Candidate {
    name: &'static str,
    model: Box<dyn Model>,
    agreement: Hits,
    accuracy: Hits,
    time: Duration,
}

impl Candidate {
    fn new(name: &'static str, model: Box<dyn Model>) -> Self {
        Self { name, model, agreement: Hits::default(), accuracy: Hits::default(), time: Duration::ZERO }
    }

    /// The row of the table.
    fn row(&self, pictures: u64, labelled: u64) -> String {
        let milliseconds = self.time.as_secs_f64() * 1e3 / pictures.max(1) as f64;
        let (agreement, accuracy) = (self.agreement.columns(pictures), self.accuracy.columns(labelled));
        format!("{:<10}{agreement}{accuracy}{milliseconds:>10.2} ms", self.name)
    }
}

/// The heading of the table.
fn heading() -> String {
    format!(
        "{:<10}{:>16}{:>16}{:>16}{:>16}{:>13}",
        "precision", "top-1 agreement", "top-5 agreement", "top-1 accuracy", "top-5 accuracy", "per picture"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Calibration, ModelSource};
    use clap::Parser;

    /// Writes the bundled network in 8-bit integers.
    fn write_quantised(path: &Path) {
        let ModelFile::Weights(weights, architecture) = ModelFile::open(&ModelSource::Bundled).expect("bundled") else {
            panic!("the bundled model has f32 weights");
        };
        let transform = Transform { crop: 32, ..Transform::IMAGENET };
        let mut calibration = Calibration::new(weights, architecture, transform).expect("the weights fit");
        calibration.observe(&vec![0.5; 3 * 32 * 32]).expect("computed");
        calibration.quantise().expect("computed").write(path).expect("written");
    }

    #[test]
    fn files_of_another_kind_than_the_flag_needs_are_refused_with_what_to_give() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        write_quantised(&at("int8.safetensors"));
        std::fs::write(at("f32.safetensors"), "").expect("written");
        let refused = |flags: &[&str]| {
            let line = ["accuracy", "--pictures", "no/such/folder"].iter().chain(flags);
            let args = Line::try_parse_from(line).expect("well-formed flags").args;
            format!("{:#}", run(args).expect_err("refused"))
        };
        let path = |name: &str| at(name).display().to_string();
        let onnx = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.onnx");
        let given = path("int8.safetensors");
        assert!(refused(&["--weights", &given]).contains("give them as --quantized"));
        if cfg!(feature = "onnx") {
            assert!(refused(&["--weights", onnx]).contains("tiny is no residual network"));
        }
        let missing = refused(&["--quantized", &path("missing.safetensors")]);
        assert!(missing.contains("No such file") && missing.contains("missing.safetensors"), "{missing}");
        let other = refused(&["--quantized", &path("f32.safetensors")]);
        assert!(other.contains("has not written this file"), "{other}");
        assert!(refused(&["--quantized", &given]).contains("no/such/folder"), "the files are good");
        let classes = check_classes(12, 10).expect_err("other weights").to_string();
        assert!(classes.contains("12 classes") && classes.contains("have 10"), "{classes}");
        check_classes(12, 12).expect("equal");
    }

    /// A command line with the flags of `replica accuracy`.
    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn hits_count_the_first_and_the_five_likeliest() {
        let logits = [0.0, 5.0, 3.0, 5.0, 1.0, 2.0, -1.0];
        let mut hits = Hits::default();
        for wanted in [Some(1), Some(3), Some(0), None] {
            hits.count(&best_classes(&logits, TOP), wanted);
        }
        assert_eq!(hits, Hits { first: 1, among: 2 });
        assert_eq!(hits.columns(3).split_whitespace().collect::<Vec<_>>(), ["33.33", "%", "66.67", "%"]);
        assert_eq!(hits.columns(0).split_whitespace().collect::<Vec<_>>(), ["-", "-"]);
    }
}

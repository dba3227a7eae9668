//! Times decoding and the transform: the way from the bytes of a file to the model's input. `bench/peers/decode.py`
//! answers the same questions with PIL and torchvision. Or times a JPEG decoder alone: the way to RGB.

use anyhow::{Context, Result, bail};
use replica::transform::Transform;
use replica::{decode, preprocess};
use std::path::PathBuf;
use std::time::Instant;

/// On standard input, a line "time INDEX REPEATS" is answered with the milliseconds of each repetition.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is timed: all up to the model's input, or only a JPEG decoder
    #[arg(long, value_enum, default_value_t = Decoder::Replica)]
    decoder: Decoder,
    /// Image files; the first has the INDEX 0
    files: Vec<PathBuf>,
}

/// What is timed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Decoder {
    /// The replica's decoding and transform
    Replica,
    /// The crate jpeg
    Jpeg,
    /// libjpeg-turbo, through its TurboJPEG API
    LibjpegTurbo,
}

/// Answers questions until standard input ends.
///
/// # Errors
/// If a file cannot be read or decoded, or a question is malformed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let files = args.files.iter().map(read).collect::<Result<Vec<_>>>()?;
    println!("ready replica");
    for line in std::io::stdin().lines() {
        let line = line.context("read standard input")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let expected = || format!("standard input: expected \"time INDEX REPEATS\", got {line:?}");
        let ["time", index, repeats] = words[..] else { bail!(expected()) };
        let index: usize = index.parse().with_context(expected)?;
        let repeats: u32 = repeats.parse().with_context(expected)?;
        let no_file = || format!("standard input: {line:?} asks for file {index}, but there are {} files", files.len());
        let file = files.get(index).with_context(no_file)?;
        let times =
            (0..repeats).map(|_| milliseconds(args.decoder, file).map(|milliseconds| format!("{milliseconds:.6}")));
        println!("{}", times.collect::<Result<Vec<_>>>()?.join(" "));
    }
    Ok(())
}

/// The time in milliseconds that `decoder` takes for `file`. The time to free the result does not count.
fn milliseconds(decoder: Decoder, file: &[u8]) -> Result<f64> {
    let start = Instant::now();
    let took = match decoder {
        Decoder::Replica => {
            let pixels = decode::decode(file, decode::ImageLimits::default())?;
            let input = preprocess::input(&pixels, &Transform::IMAGENET);
            let took = start.elapsed();
            std::hint::black_box(input);
            took
        }
        Decoder::Jpeg => {
            let rgb = jpeg::JpegFile::read(file, u64::MAX).and_then(|file| file.decode())?;
            let took = start.elapsed();
            std::hint::black_box(rgb);
            took
        }
        Decoder::LibjpegTurbo => {
            let image = turbojpeg::decompress(file, turbojpeg::PixelFormat::RGB)?;
            let took = start.elapsed();
            std::hint::black_box(image);
            took
        }
    };
    Ok(took.as_secs_f64() * 1e3)
}

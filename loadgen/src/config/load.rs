//! Flags that choose the load: the times at which requests are sent.

use crate::config::positive;
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;
use workload::arrivals::ArrivalProcess;
use workload::file::{self, ReadOptions, WorkloadFile};
use workload::format::{FormatChoice, WorkloadFormat};
use workload::shape::Shape;
use workload::stages::Stages;
use workload::{MAX_PER_SECOND, MAX_SECONDS, Workload};

/// A workload file that is longer than this, in bytes, is read with a progress bar.
const LONG_FILE_BYTES: u64 = 64 << 20;

/// The message of the error when no flag chooses a load.
pub const NO_LOAD: &str =
    "choose a load: --workload FILE, --shape SHAPE, --stages STAGES, --rate R --duration T, or --closed N --duration T";

/// Flags of `loadgen run` and `loadgen workload` that choose the load.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with the number of requests of each second: numbers that white space or commas separate, a list [7, 6, 7],
    /// CSV with the columns second,rate or minute,count, or a trace of Azure Functions; # starts a comment
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shape", "stages", "rate", "closed"])]
    pub workload: Option<PathBuf>,
    /// Format of the workload file: auto (recognised from the content), counts (numbers), csv (times and rates), json
    /// (a list), or minutes (any of these, with the requests of a minute in each number)
    #[arg(long, value_name = "FORMAT", default_value_t = FormatChoice::Auto)]
    pub workload_format: FormatChoice,
    /// HashFunction of the function whose requests are sent, out of a trace of Azure Functions; without this flag, the
    /// requests of all functions are sent
    #[arg(long, value_name = "HASH")]
    pub function: Option<String>,
    /// Workload with a shape: constant, ramp, step, spike, sine, square, sawtooth, on-off, markov, gamma, flash or walk,
    /// as in square:low=5,high=40,period=60,length=300; low and high are in requests per second, period and length in
    /// seconds, and cv is the coefficient of variation of the rates of gamma
    #[arg(long, conflicts_with_all = ["stages", "rate", "closed"])]
    pub shape: Option<Shape>,
    /// Stages as in k6, such as 30s:10,1m30s:50: the rate moves linearly to each number of requests per second, within
    /// the time before it
    #[arg(long, conflicts_with_all = ["rate", "closed"])]
    pub stages: Option<Stages>,
    /// Rate at the start of --stages, in requests per second
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = start_rate)]
    pub start_rate: f64,
    /// Constant rate in requests per second, for --duration; with --find-capacity, the first rate that is tried
    #[arg(long, conflicts_with_all = ["closed", "time_scale", "repeat"], value_parser = rate)]
    pub rate: Option<f64>,
    /// Number of requests to keep in flight for --duration, instead of following a schedule
    #[arg(
        long,
        requires = "duration",
        conflicts_with_all = ["rate_scale", "time_scale", "repeat", "arrivals"],
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub closed: Option<u32>,
    /// Multiply every rate of the workload by this number
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub rate_scale: f64,
    /// Multiply the workload's length by this number: 0.5 plays it twice as fast, at the same rates
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub time_scale: f64,
    /// Number of times to play the workload
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub repeat: u32,
    /// Length of the run: the workload is cut after this time, rounded up to whole seconds; --closed ends exactly after
    /// this time
    #[arg(long, value_parser = positive)]
    pub duration: Option<Duration>,
    /// Length of the warm-up before the run, at the rate of the workload's first second with load; no figure contains
    /// its requests
    #[arg(long, value_parser = positive)]
    pub warmup: Option<Duration>,
    /// Process that spreads the requests of each second: poisson, uniform, replayed (exactly the number of requests in
    /// each second that the workload says), or gamma:CV with the coefficient of variation CV (above 1, requests come in
    /// bunches)
    #[arg(long, default_value_t = ArrivalProcess::Poisson)]
    pub arrivals: ArrivalProcess,
    /// Seed of the send times and of the images that are drawn
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Args {
    /// Whether the flags choose a load.
    pub fn is_given(&self) -> bool {
        let has_rate = self.rate.is_some() && self.duration.is_some();
        let has_shape = self.shape.is_some() || self.stages.is_some();
        self.workload.is_some() || has_shape || self.closed.is_some() || has_rate
    }

    /// The error of a flag without the flag that it belongs to. clap finds no such error if the missing flag conflicts
    /// with a flag that is given.
    pub fn conflict(&self) -> Option<&'static str> {
        let describes_file = self.workload_format != FormatChoice::Auto || self.function.is_some();
        if describes_file && self.workload.is_none() {
            Some("--workload-format and --function belong to a workload file; give it with --workload FILE")
        } else if self.start_rate > 0.0 && self.stages.is_none() {
            Some("--start-rate is the rate at the start of --stages; give --stages, such as --stages 30s:10,1m30s:50")
        } else {
            None
        }
    }

    /// The workload that the flags choose: scaled, stretched, repeated and cut, in this order. It does not contain the
    /// warm-up.
    ///
    /// # Errors
    /// If the workload file cannot be read, or the workload is empty, too long or too large.
    pub fn workload(&self) -> Result<Workload> {
        Ok(self.workload_and_format()?.0)
    }

    /// The workload as from [`Args::workload`], and the format of its file; `None` without a file.
    ///
    /// # Errors
    /// As for [`Args::workload`].
    pub fn workload_and_format(&self) -> Result<(Workload, Option<WorkloadFormat>)> {
        if let Some(path) = &self.workload {
            let options = ReadOptions { format: self.workload_format, function: self.function.clone() };
            let file = read(path, &options).with_context(|| format!("read workload {}", path.display()))?;
            return Ok((self.changed(file.workload)?, Some(file.format)));
        }
        let workload = match (&self.shape, &self.stages, self.rate.zip(self.duration)) {
            (Some(shape), ..) => shape.workload(),
            (_, Some(stages), _) => stages.workload(self.start_rate),
            (_, _, Some((rate, duration))) => Workload::constant(rate, duration),
            (None, None, None) => bail!(NO_LOAD),
        };
        Ok((self.changed(workload)?, None))
    }

    /// The workload after the changes that the flags ask for.
    fn changed(&self, workload: Workload) -> Result<Workload> {
        let seconds = workload.per_second.len() as f64 * self.time_scale * f64::from(self.repeat);
        ensure!(
            seconds <= MAX_SECONDS as f64,
            "the workload is {seconds:.0} s long, which is more than a week; lower --time-scale or --repeat"
        );
        let workload = workload.scaled(self.rate_scale);
        let workload = if self.time_scale == 1.0 { workload } else { workload.stretched(self.time_scale) };
        let workload = workload.repeated(self.repeat as usize);
        let workload = match self.duration {
            Some(duration) => workload.first(duration),
            None => workload,
        };
        ensure!(
            workload.total() > 0.0,
            "the workload has no request at all; give a rate above 0, or a longer --duration"
        );
        Ok(workload)
    }

    /// The load in words, for reports.
    pub fn describe(&self) -> String {
        let mut words = match (&self.workload, &self.shape, &self.stages, self.closed) {
            (Some(path), ..) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            (_, Some(shape), ..) => shape.to_string(),
            (_, _, Some(stages), _) if self.start_rate > 0.0 => format!("stages {stages} from {}/s", self.start_rate),
            (_, _, Some(stages), _) => format!("stages {stages}"),
            (.., Some(closed)) => return format!("{closed} at a time"),
            (None, None, None, None) => format!("{}/s", self.rate.unwrap_or_default()),
        };
        if self.workload_format == FormatChoice::Minutes {
            words.push_str(" in minutes");
        }
        if let Some(function) = &self.function {
            words.push_str(&format!(", function {function}"));
        }
        for (name, scale) in [("rate", self.rate_scale), ("time", self.time_scale)] {
            if scale != 1.0 {
                words.push_str(&format!(", {name} × {scale}"));
            }
        }
        if self.repeat > 1 {
            words.push_str(&format!(", {} times", self.repeat));
        }
        words
    }
}

/// Parses a rate in requests per second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|&rate: &f64| rate > 0.0 && rate <= MAX_PER_SECOND);
    rate.ok_or_else(|| "must be a positive number up to 1000000".into())
}

/// Parses the rate at which stages start, in requests per second.
fn start_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=MAX_PER_SECOND).contains(rate));
    rate.ok_or_else(|| "must be a number between 0 and 1000000".into())
}

/// Parses a factor of `--rate-scale` or `--time-scale`.
fn scale(text: &str) -> Result<f64, String> {
    let scale = text.parse().ok().filter(|scale| (1e-6..=1e6).contains(scale));
    scale.ok_or_else(|| "must be a number between 0.000001 and 1000000".into())
}

/// Reads a workload file.
fn read(path: &Path, options: &ReadOptions) -> Result<WorkloadFile> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let bar = if length > LONG_FILE_BYTES { progress_bar(length) } else { ProgressBar::hidden() };
    let read = file::read(BufReader::with_capacity(1 << 16, bar.wrap_read(file)), options);
    bar.finish_and_clear();
    Ok(read?)
}

fn progress_bar(length: u64) -> ProgressBar {
    let template = "reading the workload {wide_bar} {bytes}/{total_bytes}";
    ProgressBar::new(length)
        .with_style(ProgressStyle::with_template(template).expect("the template of the progress bar is valid"))
}

#[cfg(test)]
mod tests {
    use crate::config::{Cli, Command};
    use workload::Workload;

    fn workload(flags: &[&str]) -> Result<Vec<f64>, String> {
        let cli = Cli::read(["loadgen", "workload"].iter().chain(flags).map(Into::into))
            .map_err(|error| error.to_string())?;
        let Command::Workload(args) = cli.command else { return Err("another command".into()) };
        args.load.workload().map(|Workload { per_second }| per_second).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn workloads_are_scaled_stretched_repeated_and_cut_in_this_order() {
        assert_eq!(workload(&["--rate=2", "--duration=1500ms"]), Ok(vec![2.0, 2.0]));
        let ramp = "--shape=ramp:low=0,high=4,length=2";
        assert_eq!(workload(&[ramp]), Ok(vec![1.0, 3.0]));
        assert_eq!(workload(&[ramp, "--rate-scale=2", "--time-scale=2"]), Ok(vec![2.0, 2.0, 6.0, 6.0]));
        assert_eq!(workload(&[ramp, "--repeat=2", "--duration=3s"]), Ok(vec![1.0, 3.0, 1.0]));
        let stages = "--stages=2s:4,1s:4";
        assert_eq!(workload(&[stages]), Ok(vec![1.0, 3.0, 4.0]));
        assert_eq!(workload(&[stages, "--start-rate=4", "--rate-scale=2"]), Ok(vec![8.0; 3]));
    }

    #[test]
    fn a_file_is_read_in_the_format_that_is_chosen() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            format!("--workload={}", path.display())
        };
        let pairs = file("pairs", "0,60\n1,90\n");
        assert_eq!(workload(&[&pairs]), Ok(vec![60.0, 90.0]));
        assert_eq!(workload(&[&pairs, "--workload-format=counts"]), Ok(vec![0.0, 60.0, 1.0, 90.0]));
        let minutes = workload(&[&pairs, "--workload-format=minutes"]).expect("minutes");
        assert_eq!((minutes.len(), minutes[59], minutes[60]), (120, 1.0, 1.5));
        let trace = file("trace", "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,60,60\no,a,g,http,60,0\n");
        assert_eq!(workload(&[&trace, "--function=f"]), Ok(vec![1.0; 120]));
        assert_eq!(workload(&[&trace]).expect("a trace")[0], 2.0);
    }

    #[test]
    fn errors_name_the_bad_flag() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            format!("--workload={}", path.display())
        };
        let binary = file("binary", b"5 5\n\xff\xfe");
        let letters = file("letters", b"# rates\n5 6\n7 eight\n");
        let zeros = file("zeros", b"0 0 0");
        for (flags, word) in [
            (&[][..], "--workload"),
            (&["--rate=2"], "--duration"),
            (&["--rate=-1", "--duration=1s"], "'-1' for '--rate"),
            (&["--rate=NaN", "--duration=1s"], "'NaN' for '--rate"),
            (&["--rate=1", "--duration=0s"], "longer than 0s"),
            (&["--rate=1", "--duration=1s", "--rate-scale=0"], "'0' for '--rate-scale"),
            (&["--shape=sine:low=1,high=2,period=9,length=9", "--time-scale=NaN"], "'NaN' for '--time-scale"),
            (&["--shape=constant:low=1,length=400000", "--repeat=2"], "more than a week"),
            (&["--rate=1", "--duration=1s", "--repeat=2"], "--repeat"),
            (&["--closed=1", "--duration=1s"], "no schedule"),
            (&["--rate=1", "--closed=1", "--duration=1s"], "--closed"),
            (&["--closed=1", "--duration=1s", "--arrivals=uniform"], "--closed"),
            (&["--rate=1", "--duration=1s", "--arrivals=gamma:0"], "gamma:CV"),
            (&["--shape=circle"], "no such shape"),
            (&["--stages=30s"], "stage 1, \"30s\", has no colon"),
            (&["--stages=1s:5", "--start-rate=-1"], "'-1' for '--start-rate"),
            (&["--stages=1s:5", "--rate=5"], "--rate"),
            (&["--stages=1s:5", "--shape=constant"], "--shape"),
            (&["--rate=1", "--duration=1s", "--start-rate=5"], "--start-rate is the rate at the start of --stages"),
            (&["--rate=1", "--duration=1s", "--workload-format=csv"], "give it with --workload FILE"),
            (&["--rate=1", "--duration=1s", "--function=f"], "give it with --workload FILE"),
            (&[&zeros, "--workload-format=xml"], "auto, counts, csv, json and minutes"),
            (&[&zeros, "--function=f"], "no column HashFunction"),
            (&[&zeros, "--workload-format=json"], "no list in square brackets"),
            (&["--workload=no/such/file"], "no/such/file"),
            (&["--workload=/dev/zero"], "64 MiB"),
            (&["--workload=/"], "read workload /"),
            (&[&binary], "line 2"),
            (&[&letters], "line 3, column 3: \"eight\""),
            (&[&zeros], "no request at all"),
        ] {
            let error = workload(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}

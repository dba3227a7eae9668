//! Compares the HPA with the scaler. Each scales the replicas in a new namespace, while loadgen replays the same
//! workload, once with each seed.

mod autoscaler;
mod plan;
mod report_folder;

use crate::access::Cluster;
use crate::check::measure_throughput;
use crate::load::LoadgenProcess;
use crate::local::Cores;
use crate::paths;
use crate::route::Route;
use anyhow::{Context, Result, ensure};
use plan::{Progress, Run};
use report_folder::ReportFolder;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;
use tokio::process::Command;

/// Flags of `cluster compare`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Workload file, one number for each second: requests per second in per cent of the throughput of one replica on
    /// this machine; by default loadgen/workloads/surge.txt
    #[arg(long, value_name = "FILE")]
    pub workload: Option<PathBuf>,
    /// Factor of the workload's length; with a longer workload, the HPA's wait of five minutes before it scales down
    /// matters less
    #[arg(long, default_value_t = 1.0)]
    pub time_scale: f64,
    /// Seeds of the arrivals; each autoscaler gets a run with each seed
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5")]
    pub seeds: Vec<u64>,
    /// Target utilisations of the HPA as shipped, in per cent of the processor time that pods request
    #[arg(long, value_delimiter = ',', default_value = "70")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub hpa: Vec<u32>,
    /// Target utilisations of the HPA tuned to follow the load: it scales down after 60 s instead of 300 s, and its
    /// tolerance is 0 instead of 0.1
    #[arg(long, value_delimiter = ',', default_value = "70")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub hpa_tuned: Vec<u32>,
    /// Folder of the reports of a comparison that was stopped; the comparison goes on with its workload and its rates,
    /// and leaves out the runs that it has; give the other flags as before
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["workload", "time_scale"])]
    pub resume: Option<PathBuf>,
    /// File for the comparison; by default comparison.html in the folder of the reports
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// A comparison before it starts.
#[derive(Debug)]
pub struct Comparison {
    /// All runs, in the order in which they are made. All autoscalers have their runs with one seed before the next
    /// seed, so that a machine that becomes slower disadvantages none.
    runs: Vec<Run>,
    reports: ReportFolder,
    html: PathBuf,
}

impl Comparison {
    /// Checks the flags, reads the workload, and makes the folder for the reports unless a comparison goes on. `cores` are
    /// those of the node.
    ///
    /// # Errors
    /// If a list has a value twice, the workload cannot be read, or the folder cannot be made, is none of a comparison, or
    /// is that of a comparison on other cores.
    pub fn new(options: &Options, cores: Cores) -> Result<Self> {
        let runs = plan::runs(options)?;
        let reports = match &options.resume {
            Some(folder) => ReportFolder::open(folder, cores)?,
            None => {
                let default = || paths::root().join("loadgen/workloads/surge.txt");
                let workload = options.workload.clone().unwrap_or_else(default);
                ReportFolder::create(&paths::output("comparisons"), &workload, options.time_scale, cores)?
            }
        };
        let html = options.html.clone().unwrap_or_else(|| reports.folder().join("comparison.html"));
        Ok(Self { runs, reports, html })
    }

    /// Makes the runs that have no report yet, and writes a comparison of all reports.
    ///
    /// # Errors
    /// If a Deployment does not become ready, or loadgen fails. The reports of the finished runs stay.
    pub async fn run(mut self, cluster: &mut Cluster) -> Result<()> {
        let folder = self.reports.folder().display().to_string();
        println!("the reports go to {folder}; if the comparison is stopped, it goes on with --resume {folder}");
        let all: Vec<(usize, Run)> = self.runs.iter().copied().enumerate().collect();
        let missing: Vec<(usize, Run)> =
            all.into_iter().filter(|(_, run)| !self.reports.path(&run.file()).exists()).collect();
        let mut progress = Progress::new(missing.len(), self.reports.length()?);
        println!("{progress}");
        for (index, run) in missing {
            let name = run.name();
            println!("\n== {name} ({} of {}), {}", index + 1, self.runs.len(), progress.left());
            let started = Instant::now();
            self.make(cluster, run).await.with_context(|| format!("{name}; go on with --resume {folder}"))?;
            progress.finish_run(started.elapsed());
        }
        self.write().await
    }

    /// Sets up the autoscaler of a run, and replays the workload.
    async fn make(&mut self, cluster: &mut Cluster, run: Run) -> Result<()> {
        run.autoscaler.deploy(cluster).await.context("set up the autoscaler")?;
        let route = Route::to_dispatcher(cluster).await?;
        let rate_scale = match self.reports.rate_scale() {
            Some(scale) => scale,
            // The factor is measured in the first run only, so that every run replays the same rates.
            None => {
                let scale = measure_rate_scale(cluster, &route).await?;
                self.reports.set_rate_scale(scale)?;
                scale
            }
        };
        let flags = [
            format!("--workload={}", self.reports.workload().display()),
            format!("--rate-scale={rate_scale}"),
            format!("--time-scale={}", self.reports.time_scale()),
            format!("--seed={}", run.seed),
            format!("--name={}", run.autoscaler.name()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let unfinished = self.reports.path("unfinished.json");
        println!("{}", LoadgenProcess::start(&route.url, &flags, unfinished.clone())?.finish().await?);
        // Only the report of a finished run gets its name, so that a stopped run is made again.
        let report = self.reports.path(&run.file());
        fs::rename(&unfinished, &report).with_context(|| format!("write {}", report.display()))
    }

    /// Has loadgen compare the reports: it prints a table and writes an HTML page.
    async fn write(&self) -> Result<()> {
        println!();
        let reports = self.runs.iter().map(|run| self.reports.path(&run.file()));
        let mut loadgen = Command::new(paths::program("loadgen"));
        loadgen.arg("compare").args(reports).arg(format!("--html={}", self.html.display()));
        let status =
            loadgen.status().await.context("run loadgen compare; build it: cargo build --release --workspace")?;
        ensure!(status.success(), "loadgen compare failed ({status})");
        Ok(())
    }
}

/// The factor that turns per cent of one replica's throughput into requests per second, rounded to thousandths.
async fn measure_rate_scale(cluster: &Cluster, route: &Route) -> Result<f64> {
    let throughput = measure_throughput(cluster, route).await?;
    println!("the throughput of one replica is {throughput:.1} images/s");
    Ok((throughput * 10.0).round() / 1e3)
}

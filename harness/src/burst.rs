//! The demo's burst: scales a workload to what one replica can handle on this machine, and replays it against a new
//! scaler.

use crate::stack::{ScalerProgram, Stack, StackSetup};
use crate::{loadgen, paths};
use anyhow::Result;
use serde_json::Value;
use std::path::PathBuf;

/// The flag that limits each replica to 0.6 cores, where the system permits control groups. Three replicas and the
/// other programs then fit on two cores.
const SHARE: &str = "--cpu-share=0.6";

/// The flag for the largest number of replicas.
const MAX: &str = "--max=3";

/// The file of the workload. Its load is within the capacity of one replica at both ends, and above it in between.
pub const WORKLOAD: &str = "loadgen/workloads/burst.txt";

/// The scaler's flags while the burst is replayed. In simulations, the demo misses its 99 % in one of fifteen bursts at
/// the default quantile of 0.99. At 0.999, replicas are sometimes held beyond the end of the burst, so the demo does
/// not see that they are removed.
pub const SCALING: [&str; 6] = ["--min=1", MAX, SHARE, "--quantile=0.997", "--interval=1s", "--down-window=8s"];

/// The value of `--interval` in [`SCALING`], in seconds.
pub const INTERVAL_SECONDS: f64 = 1.0;

/// The demo's workload, with what scales it to this machine.
pub struct Burst {
    /// The flag `--url` of loadgen, with the dispatcher's address.
    url: String,
    /// Images per second that one replica can classify.
    capacity: f64,
    folder: PathBuf,
}

impl Burst {
    /// Starts the stack with one replica and measures its capacity. All files go to `folder`.
    ///
    /// # Errors
    /// If a program does not start or answer.
    pub fn prepare(folder: PathBuf) -> Result<(Stack, Self)> {
        let stack = Stack::start(StackSetup {
            listen: "127.0.0.1:0",
            folder: folder.clone(),
            program: ScalerProgram::Scaler,
            scaler: vec!["--max=1".into(), SHARE.into()],
        })?;
        println!("dispatcher  http://{}", stack.dispatcher.address);
        println!("cpu share   {}", stack.share);
        let url = format!("--url=http://{}/predict", stack.dispatcher.address);
        let capacity = loadgen::capacity(&url, &folder)?;
        println!("capacity    {capacity:.1} images/s, {:.0} ms each", 1e3 / capacity);
        Ok((stack, Self { url, capacity, folder }))
    }

    /// The factor that converts the workload's rates from per cent of the capacity to requests per second.
    pub fn scale(&self) -> f64 {
        (self.capacity * 10.0).round() / 1e3
    }

    /// Replaces the stack's scaler by a new one with the flags for the burst.
    ///
    /// # Errors
    /// If the scaler does not start.
    pub fn rescale(&self, stack: Stack) -> Result<Stack> {
        stack.rescale(SCALING.map(str::to_owned).into())
    }

    /// Replays the burst with `flags` as additional flags of loadgen. Returns loadgen's report.
    ///
    /// # Errors
    /// If loadgen fails.
    pub fn replay(&self, flags: &[&str]) -> Result<Value> {
        println!("replaying the burst, which peaks at 120 % of the capacity");
        self.replay_workload(WORKLOAD, flags)
    }

    /// Replays another workload, whose rates are per cent of the capacity, too. Returns loadgen's report.
    ///
    /// # Errors
    /// If loadgen fails.
    pub fn replay_workload(&self, workload: &str, flags: &[&str]) -> Result<Value> {
        let workload = format!("--workload={}", paths::root().join(workload).display());
        let scale = format!("--rate-scale={}", self.scale());
        let flags = [&[self.url.as_str(), &workload, &scale, "--table=4"], flags].concat();
        loadgen::run(&flags, &self.folder.join("report.json"))
    }
}

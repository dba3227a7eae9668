//! The demo's burst: a workload scaled to what one replica can do on this machine, against a fresh scaler.

use crate::stack::{Setup, Stack};
use crate::{loadgen, paths};
use anyhow::Result;
use serde_json::Value;
use std::path::PathBuf;

/// Cores for each replica, where permitted: three of them and the rest of the system fit two cores.
const SHARE: &str = "--cpu-share=0.6";

/// The most that the scaler may start.
const MAX: &str = "--max=3";

/// Calm at both ends, and between them more than one replica can do.
pub const WORKLOAD: &str = "loadgen/workloads/burst.txt";

/// Of the scaler, while the burst is replayed. Planned is for more than [`crate::demo::run`] asks for, as a plan for
/// that would leave nothing for surprises.
pub const SCALING: [&str; 6] = ["--min=1", MAX, SHARE, "--quantile=0.999", "--interval=1s", "--down-window=8s"];

/// The interval among these.
pub const INTERVAL_SECONDS: f64 = 1.0;

/// The workload, scaled to this machine.
pub struct Burst {
    /// Of the dispatcher.
    url: String,
    /// Pictures per second that one replica can do.
    capacity: f64,
    folder: PathBuf,
}

impl Burst {
    /// Starts the stack and measures what one replica can do.
    ///
    /// # Errors
    /// When something does not start or answer.
    pub fn prepare(folder: PathBuf) -> Result<(Stack, Self)> {
        let stack = Stack::start(Setup {
            listen: "127.0.0.1:0",
            folder: folder.clone(),
            scaler: vec!["--max=1".into(), SHARE.into()],
        })?;
        println!("dispatcher  http://{}", stack.dispatcher.address);
        println!("cpu share   {}", stack.share);
        let url = format!("--url=http://{}/predict", stack.dispatcher.address);
        let capacity = loadgen::capacity(&url, &folder)?;
        println!("capacity    {capacity:.1} pictures/s, {:.0} ms each", 1e3 / capacity);
        Ok((stack, Self { url, capacity, folder }))
    }

    /// By what the workload's rates are multiplied.
    pub fn scale(&self) -> f64 {
        (self.capacity * 10.0).round() / 1e3
    }

    /// A fresh scaler.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rescale(&self, stack: Stack) -> Result<Stack> {
        stack.rescale(SCALING.map(str::to_owned).into())
    }

    /// Replays it; loadgen's report.
    ///
    /// # Errors
    /// When loadgen fails.
    pub fn replay(&self, flags: &[&str]) -> Result<Value> {
        println!("replaying the burst, scaled to peak at 120 % of that");
        let workload = format!("--workload={}", paths::root().join(WORKLOAD).display());
        let scale = format!("--rate-scale={}", self.scale());
        let flags = [&[self.url.as_str(), &workload, &scale, "--table=4"], flags].concat();
        loadgen::run(&flags, &self.folder.join("report.json"))
    }
}

//! Up and down by load alone.

use super::Scene;
use crate::load::Load;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::time::Duration;

/// Seconds, and load in times of what one replica can do.
const COURSE: [(usize, f64); 2] = [(10, 0.3), (30, 2.2)];

/// After that, until there is one replica again.
const CALM: f64 = 0.3;

/// Replicas that the burst cannot do without.
const NEED: i32 = 3;

/// A burst that needs more than two replicas, from one and back to one.
pub(super) async fn burst(scene: &Scene) -> Result<String> {
    scene.until_calm().await?;
    let mut workload = String::new();
    for (seconds, times) in COURSE {
        for _ in 0..seconds {
            writeln!(workload, "{:.0}", (scene.capacity * times).max(1.0))?;
        }
    }
    let folder = &scene.cluster.folder;
    let file = folder.join("burst.txt");
    std::fs::write(&file, workload)?;
    let workload = format!("--workload={}", file.display());
    let load = Load::start(&scene.url, &[&workload, "--generate=60"], folder.join("burst.json"))?;
    let mut peak = 0;
    let mut finish = std::pin::pin!(load.finish());
    let report = loop {
        tokio::select! {
            report = &mut finish => break report?,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                peak = peak.max(scene.cluster.replicas("replica").await?.ready);
            }
        }
    };
    report.check()?;
    ensure!(peak >= NEED, "{peak} replicas at most served, {NEED} were needed");
    let rest = scene.load("scale-in", CALM)?;
    scene.until_calm().await.context("after the burst")?;
    let rest = rest.end().await?;
    rest.check()?;
    Ok(format!("{report}; then {rest}; 1 → {peak} → 1 replicas"))
}

//! The replica's resident memory after many requests with images of many sizes, and its growth.

use super::client::ImageClient;
use super::{RunContext, server};
use crate::figure::Figure;
use crate::memory::{self, megabytes};
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// Figures about the resident memory in megabytes (10^6 bytes): at the end, its growth since the first tenth of the
/// requests, and its peak.
///
/// # Errors
/// If the replica does not start, or does not answer with status 200.
pub(super) fn measure(run: &RunContext) -> Result<Vec<Figure>> {
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("read {}", path.display()));
    let images: Vec<Vec<u8>> = run.images().mixed.iter().map(read).collect::<Result<_>>()?;
    let replica = server::start(run.folder)?;
    let client = ImageClient::new(&replica);
    let progress = progress::bar(run.requests.into(), "memory");
    let early = run.requests / 10;
    let mut early_mb = 0.0;
    for (number, image) in (1..=run.requests).zip(images.iter().cycle()) {
        client.post(image)?;
        if number == early {
            early_mb = megabytes(memory::resident(replica.id())?);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let last_mb = megabytes(memory::resident(replica.id())?);
    Ok(vec![
        Figure::new("rss_mb", last_mb, "MB"),
        Figure::new("rss_growth_mb", last_mb - early_mb, "MB"),
        Figure::new("rss_peak_mb", megabytes(memory::peak(replica.id())?), "MB"),
    ])
}

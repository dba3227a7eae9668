//! Files that are read again while the program runs: certificates and tokens are replaced under it.

use std::path::PathBuf;
use std::time::Duration;

/// Between two looks. Reading is cheaper than being told, and sees what a replaced symbolic link would hide.
const EVERY: Duration = Duration::from_secs(2);

/// The contents of `paths`.
///
/// # Errors
/// When one cannot be read; the message names it.
pub fn contents<const N: usize>(paths: &[PathBuf; N]) -> std::io::Result<[Vec<u8>; N]> {
    let mut all = [const { Vec::new() }; N];
    for (content, path) in all.iter_mut().zip(paths) {
        *content = std::fs::read(path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("read {}: {error}", path.display())))?;
    }
    Ok(all)
}

/// Hands `apply` the contents of `paths` whenever they are no longer `present`, for ever. What cannot be read, and what
/// `apply` refuses, is logged once and leaves things as they are.
pub async fn follow<const N: usize, E: std::fmt::Display>(
    paths: [PathBuf; N],
    mut present: [Vec<u8>; N],
    mut apply: impl FnMut(&[Vec<u8>; N]) -> Result<(), E>,
) {
    let mut was_readable = true;
    loop {
        tokio::time::sleep(EVERY).await;
        let new = match contents(&paths) {
            Ok(new) => new,
            Err(error) => {
                if std::mem::take(&mut was_readable) {
                    tracing::warn!(%error, "keeping what was read before");
                }
                continue;
            }
        };
        was_readable = true;
        if new != present {
            match apply(&new) {
                Ok(()) => tracing::info!(file = %paths[0].display(), "read again"),
                Err(error) => tracing::warn!(file = %paths[0].display(), %error, "keeping what was read before"),
            }
            present = new;
        }
    }
}

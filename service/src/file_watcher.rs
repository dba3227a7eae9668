//! Reads files again while the program runs, because certificates and tokens may be replaced. Knows nothing of the
//! contents of the files.

use std::path::PathBuf;
use std::time::Duration;

/// The time between two reads. The files are read and compared, because Kubernetes updates mounted secrets by replacing
/// a symbolic link, which file system notifications miss.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reads the files at all `paths`.
///
/// # Errors
/// If a file cannot be read. The message names the file.
pub fn contents<const N: usize>(paths: &[PathBuf; N]) -> std::io::Result<[Vec<u8>; N]> {
    let mut all = [const { Vec::new() }; N];
    for (content, path) in all.iter_mut().zip(paths) {
        *content = std::fs::read(path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("read {}: {error}", path.display())))?;
    }
    Ok(all)
}

/// Calls `apply` with the contents of the files at `paths` each time that they change. `present` are the contents so
/// far. Never returns. If a file cannot be read, or `apply` refuses the contents, one warning is logged and the
/// previous contents stay in use.
pub async fn follow<const N: usize, E: std::fmt::Display>(
    paths: [PathBuf; N],
    mut present: [Vec<u8>; N],
    mut apply: impl FnMut(&[Vec<u8>; N]) -> Result<(), E>,
) {
    let mut was_readable = true;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let new = match contents(&paths) {
            Ok(new) => new,
            Err(error) => {
                if was_readable {
                    tracing::warn!(%error, "cannot read a watched file again; its previous contents stay in use");
                }
                was_readable = false;
                continue;
            }
        };
        was_readable = true;
        if new != present {
            let files = paths.each_ref().map(|path| path.display().to_string()).join(", ");
            match apply(&new) {
                Ok(()) => tracing::info!(files, "changed files were read again"),
                Err(error) => {
                    tracing::warn!(files, %error, "changed files cannot be used; the previous contents stay in use");
                }
            }
            present = new;
        }
    }
}

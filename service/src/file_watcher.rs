//! Files that are read again while the program runs, such as certificates and tokens that are replaced under it. Knows
//! nothing of their contents.

use std::path::PathBuf;
use std::time::Duration;

/// Time between two reads. The files are read and compared, since file system notifications miss a replaced symbolic
/// link, which is how Kubernetes updates mounted secrets.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reads all of `paths`.
///
/// # Errors
/// When a file cannot be read; the message names the file.
pub fn contents<const N: usize>(paths: &[PathBuf; N]) -> std::io::Result<[Vec<u8>; N]> {
    let mut all = [const { Vec::new() }; N];
    for (content, path) in all.iter_mut().zip(paths) {
        *content = std::fs::read(path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("read {}: {error}", path.display())))?;
    }
    Ok(all)
}

/// Calls `apply` with the contents of `paths` each time that they change, starting from `present`. Never returns. If a
/// file cannot be read, or `apply` refuses the contents, a warning is logged once and the previous contents stay in
/// use.
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
                    tracing::warn!(%error, "a watched file cannot be read; keeping what was read before");
                }
                was_readable = false;
                continue;
            }
        };
        was_readable = true;
        if new != present {
            let file = paths[0].display();
            match apply(&new) {
                Ok(()) => tracing::info!(%file, "a changed file was read again"),
                Err(error) => {
                    tracing::warn!(%file, %error, "a changed file is not usable; keeping what was read before");
                }
            }
            present = new;
        }
    }
}

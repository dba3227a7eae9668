//! `replica fetch`: puts the files of a model into a directory. An init container of a pod runs it before the replica
//! starts with `--model DIRECTORY`. Computes nothing, so libtorch stays idle.

mod archive;
mod client;
mod download;
mod folder;
mod name;
mod source;
mod staging;
mod transfer;

use crate::fetch::client::Client;
use crate::fetch::source::Source;
use crate::fetch::staging::Staging;
use crate::fetch::transfer::{Limits, Stop};
use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use service::options::positive_duration;
use service::shutdown;
use service::telemetry::{self, LATENCY_BUCKETS};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Most names that the last line of the log has.
const NAMED_FILES: usize = 10;

/// Flags of `replica fetch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  replica fetch --to /model 'https://models.example/resnet50.tar.gz#sha256=HEX'\n  \
                  replica fetch --to /model 'https://models.example/resnet50.pth#sha256=HEX' \
                  'https://models.example/labels.txt#sha256=HEX'\n  \
                  replica fetch --to /shared /model        a folder of this container image\n\n\
                  HEX is what 'sha256sum FILE' prints. A URL may have a query, such as the signature of an object store. \
                  These environment variables are used, too:\n  \
                  ROUNDHOUSE_FETCH_AUTHORIZATION   value of the header Authorization, such as 'Bearer TOKEN'\n  \
                  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY\n  \
                  SSL_CERT_FILE, SSL_CERT_DIR      certificates of the authorities that are trusted"
)]
pub struct Args {
    /// Directory that gets the files; it is made if it is missing, and other files in it stay
    #[arg(long, env = "ROUNDHOUSE_FETCH_TO", value_name = "DIRECTORY")]
    to: PathBuf,
    /// Sources, separated by whitespace: https://HOST/PATH#sha256=HEX (or http://) for a file, or for a .tar or .tar.gz,
    /// which is unpacked without a folder that all of its files are in; or a folder of this container, whose files are
    /// copied
    #[arg(env = "ROUNDHOUSE_FETCH", hide_env_values = true, required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// Most bytes that are written, archives and their files together, such as 2GiB
    #[arg(long, env = "ROUNDHOUSE_FETCH_MAX_SIZE", value_name = "SIZE", default_value = "16GiB")]
    max_size: ByteSize,
    /// Longest time for everything
    #[arg(long, env = "ROUNDHOUSE_FETCH_TIMEOUT", default_value = "1h", value_parser = positive_duration)]
    timeout: Duration,
    /// Longest time in which a server sends no byte
    #[arg(long, env = "ROUNDHOUSE_FETCH_STALL_TIMEOUT", default_value = "30s", value_parser = positive_duration)]
    stall_timeout: Duration,
    /// Log level: error, warn, info or debug
    #[arg(long, env = "ROUNDHOUSE_LOG", default_value = "info")]
    log: String,
}

/// What a run does.
struct Job {
    directory: PathBuf,
    sources: Vec<Source>,
    client: Client,
    stall_timeout: Duration,
}

/// Puts the files of all sources into the directory, or none of them. SIGTERM ends the run: as the first process of a
/// container, it would be ignored otherwise.
///
/// # Errors
/// If a source cannot be fetched or the directory cannot be written. What this run has written is removed then.
pub fn run(args: Args, variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    telemetry::start(&args.log, &LATENCY_BUCKETS)?;
    let sources = Source::parse_all(&args.sources)?;
    let is_https = |source: &Source| matches!(source, Source::Remote(file) if file.uri.scheme_str() == Some("https"));
    let client = Client::new(variable, args.stall_timeout, sources.iter().any(is_https))?;
    let (stop, end_requests) = (Stop::default(), client.end());
    let limits = Limits::new(args.max_size, args.timeout, Instant::now(), stop.clone());
    let job = Job { directory: args.to, sources, client, stall_timeout: args.stall_timeout };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let fetch = async {
            let (sender, outcome) = oneshot::channel();
            let work = move || {
                // The receiver is dropped only if signals cannot be awaited, and that is the error then.
                let _no_receiver = sender.send(job.run(limits));
            };
            thread::Builder::new().name("fetch".into()).spawn(work).context("start a thread")?;
            outcome.await.context("the thread that fetches has ended without a result")?
        };
        tokio::pin!(fetch);
        tokio::select! {
            // The handlers of the signals are installed before the thread is started.
            biased;
            signal = shutdown::requested(false) => {
                let _it_is_the_first = stop.set(signal.context("await signals")?);
                end_requests();
                fetch.await
            }
            outcome = &mut fetch => outcome,
        }
    })
}

impl Job {
    fn run(self, mut limits: Limits) -> Result<()> {
        let staging = Staging::open(&self.directory, &limits).context("prepare the directory")?;
        let mut trees = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let mut tree = staging.tree(index)?;
            match source {
                Source::Folder(folder) => folder::copy(folder, &self.directory, &mut tree, &mut limits)
                    .with_context(|| format!("copy {}", folder.display()))?,
                Source::Remote(file) => {
                    let scratch = staging.scratch();
                    let mut fetch = || {
                        download::download(&self.client, file, &scratch, &mut limits, self.stall_timeout)?;
                        match archive::kind(&scratch, &file.name)? {
                            None => tree.adopt(&scratch, Path::new(&file.name)),
                            Some(kind) => {
                                archive::unpack(&scratch, kind, &mut tree, &mut limits)?;
                                tree.leave_out_top_folder();
                                std::fs::remove_file(&scratch).context("remove the archive")
                            }
                        }
                    };
                    fetch().with_context(|| format!("fetch {file}"))?;
                }
            }
            trees.push(tree);
        }
        limits.time_left()?;
        let names = staging.publish(&trees).context("put the files in place")?;
        ensure!(!names.is_empty(), "there are no files");
        let shown: Vec<_> = names.iter().take(NAMED_FILES).map(|name| name.display().to_string()).collect();
        let more = if names.len() > NAMED_FILES { ", …" } else { "" };
        tracing::info!("files in place in {} ({}): {}{more}", self.directory.display(), names.len(), shown.join(", "));
        Ok(())
    }
}

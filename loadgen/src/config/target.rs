//! Flags that choose the server, and how requests are sent to it.

use crate::config::positive;
use anyhow::{Context, Result, ensure};
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use std::time::Duration;

/// Default of `--connections`, as far as the limit of open files permits it. More requests in flight do not make a
/// server faster.
const DEFAULT_CONNECTIONS: usize = 4096;

/// Flags of `loadgen run` that choose the server.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// URL to which images are posted; loadgen connects to it directly, never through a proxy
    #[arg(long, default_value = "http://127.0.0.1:5052/predict")]
    pub url: Uri,
    /// Header that is sent with each request, such as 'Authorization: Bearer abc'; can be given several times
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(HeaderName, HeaderValue)>,
    /// Time after its scheduled send time at which a request counts as failed
    #[arg(long, default_value = "30s", value_parser = positive)]
    pub timeout: Duration,
    /// Timeout to send with each request, in the header x-request-timeout-ms
    #[arg(long, value_parser = whole_milliseconds)]
    pub budget: Option<Duration>,
    /// Number of predictions to request in each answer
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Largest number of open connections; 4096 by default, or fewer if the system permits fewer. A request that finds
    /// all connections in use is sent late
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: Option<u32>,
}

impl Args {
    /// The largest number of open connections: `--connections`, or its default.
    ///
    /// # Errors
    /// If the limit of open files permits fewer connections than `--connections`.
    pub fn connections(&self) -> Result<usize> {
        let permitted = service::descriptors::for_connections();
        let Some(connections) = self.connections else { return Ok(permitted.min(DEFAULT_CONNECTIONS)) };
        ensure!(
            connections as usize <= permitted,
            "--connections ({connections}) exceeds the {permitted} connections that the limit of open files permits; \
             lower it, or raise the limit (ulimit -Hn)"
        );
        Ok(connections as usize)
    }
}

/// Parses a duration of whole milliseconds, since the header has no fractions.
fn whole_milliseconds(text: &str) -> Result<Duration, String> {
    let duration = positive(text)?;
    if duration.subsec_nanos().is_multiple_of(1_000_000) {
        Ok(duration)
    } else {
        Err("must be whole milliseconds, such as 250ms".into())
    }
}

/// Parses a header, `Name: value`.
fn header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header needs a colon, as in 'Name: value'")?;
    let name = name.trim().parse().context("the name of the header is not valid in HTTP")?;
    let mut value: HeaderValue = value.trim().parse().context("the value of the header is not valid in HTTP")?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let (name, value) = header("authorization:  Bearer a:b ").expect("good");
        assert_eq!((name.as_str(), value.to_str().expect("plain")), ("authorization", "Bearer a:b"));
        for bad in ["", "x", "a b: c", ": x", "a: b\nc"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
    }
}

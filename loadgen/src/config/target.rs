//! Whom to load, and how to speak.

use crate::config::positive;
use anyhow::{Context, Result, ensure};
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use std::time::Duration;

/// More than any server answers well.
const DEFAULT_CONNECTIONS: usize = 4096;

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where pictures are posted
    #[arg(long, default_value = "http://127.0.0.1:5052/predict")]
    pub url: Uri,
    /// Sent with each request, such as 'Authorization: Bearer abc'; can be given several times
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(HeaderName, HeaderValue)>,
    /// Give up on an answer after this time
    #[arg(long, default_value = "30s", value_parser = positive)]
    pub timeout: Duration,
    /// Budget told to the server with each request (x-request-timeout-ms)
    #[arg(long, value_parser = whole_milliseconds)]
    pub budget: Option<Duration>,
    /// How many classes to ask for
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Connections at once, at most, if not 4096 or what the system permits; what finds none is sent late
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: Option<u32>,
    /// The scaler's address, such as 127.0.0.1:5053: replicas are then counted from when it asks for them
    #[arg(long, value_name = "HOST:PORT")]
    pub scaler: Option<String>,
}

impl Args {
    /// Connections that the system permits.
    ///
    /// # Errors
    /// When it permits fewer than asked for.
    pub fn connections(&self) -> Result<usize> {
        let permitted = service::descriptors::for_connections();
        let Some(connections) = self.connections else { return Ok(permitted.min(DEFAULT_CONNECTIONS)) };
        ensure!(
            connections as usize <= permitted,
            "--connections ({connections}) needs more open files than are permitted, {permitted}; see ulimit -n"
        );
        Ok(connections as usize)
    }
}

/// As the header has it.
fn whole_milliseconds(text: &str) -> Result<Duration, String> {
    let duration = positive(text)?;
    if duration.subsec_nanos().is_multiple_of(1_000_000) { Ok(duration) } else { Err("use whole milliseconds".into()) }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("write it like 'Name: value'")?;
    let name = name.trim().parse().context("the name is not one of a header")?;
    let mut value: HeaderValue = value.trim().parse().context("the value may not stand in a header")?;
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

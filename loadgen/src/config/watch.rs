//! Flags that choose the programs whose metrics are read during a run, and the address of loadgen's own metrics.

use crate::connection::addresses::Override;
use crate::scrape::{MAX_ADDRESSES, ScrapeSource, Watch};
use crate::target;
use anyhow::{Result, ensure};
use hyper::Uri;
use std::net::{Ipv6Addr, SocketAddr};

/// Flags of `loadgen run` that choose what is watched.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of a dispatcher or a scaler whose /metrics are read once a second, such as 127.0.0.1:5053 or
    /// [::1]:5053, or dns:HOST:PORT for all addresses of a name; can be given several times. Without this flag, the host
    /// of --url is read
    #[arg(long, value_name = "HOST:PORT", value_parser = source)]
    pub scrape: Vec<ScrapeSource>,
    /// Address of the scaler, as with --scrape, to be read besides the host of --url. Replicas then count from the time
    /// at which the scaler asks for them
    #[arg(long, value_name = "HOST:PORT", value_parser = source)]
    pub scaler: Option<ScrapeSource>,
    /// Target of the scaler whose replicas count, if the scaler has several: the label target of its metrics
    #[arg(long, value_name = "NAME")]
    pub scaler_target: Option<String>,
    /// Serve loadgen's own metrics for Prometheus during the run, at http://ADDRESS:PORT/metrics
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub metrics_listen: Option<SocketAddr>,
}

impl Args {
    /// The programs whose metrics are read. Sources that a flag names are tested; the host of `url`, whose addresses
    /// `overrides` may replace, need not have metrics.
    ///
    /// # Errors
    /// If a source cannot be read, if there are too many, or if `--scaler-target` is missing, unknown or without use.
    pub async fn watch(&self, url: &Uri, overrides: &[Override]) -> Result<Watch> {
        let named: Vec<ScrapeSource> = self.scrape.iter().chain(&self.scaler).cloned().collect();
        ensure!(
            named.len() <= MAX_ADDRESSES,
            "--scrape was given {} times; {MAX_ADDRESSES} addresses are the most",
            self.scrape.len()
        );
        ensure!(
            self.scaler_target.is_none() || !named.is_empty(),
            "--scaler-target needs the address of the scaler; give it with --scrape HOST:PORT"
        );
        // The host of the URL may stand for the dispatchers that --scrape names, and their queues would count twice.
        let host = if self.scrape.is_empty() { default_source(url, overrides) } else { None };
        let watch = Watch::new(host, named, self.scaler_target.clone());
        watch.check().await?;
        Ok(watch)
    }
}

/// The host of `url`. `None` if the URL has another scheme than `http`, because scrapes do not use TLS. With
/// `overrides`, the load does not go to the host of that name, so its metrics must not be read there either.
fn default_source(url: &Uri, overrides: &[Override]) -> Option<ScrapeSource> {
    let is_http = url.scheme_str() == Some("http");
    let host_and_port = is_http.then(|| target::host_and_port(url)).and_then(Result::ok)?;
    let given = overrides.iter().find(|given| given.is_of(&host_and_port)).and_then(|given| {
        let address = given.addresses.first()?;
        Some(SocketAddr::new(*address, given.port).to_string())
    });
    Some(ScrapeSource::Address(given.unwrap_or(host_and_port)))
}

/// Parses `HOST:PORT` or `dns:HOST:PORT`. An IPv6 address is in brackets.
fn source(text: &str) -> Result<ScrapeSource, String> {
    // In `dns:5052`, dns is a host.
    let name = text.strip_prefix("dns:").filter(|rest| rest.contains(':'));
    let address = name.unwrap_or(text);
    let (host, port) = address.rsplit_once(':').ok_or_else(|| error("the port is missing"))?;
    if address.contains('/') {
        return Err(error("it must be an address without a scheme and a path"));
    }
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None if host.contains(':') => return Err(error("an IPv6 address must be in brackets")),
        None => !host.is_empty() && host.chars().all(|char| char.is_ascii_alphanumeric() || "-._".contains(char)),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
    match (is_host, is_port) {
        (false, _) => Err(error(&format!("{host:?} is not the name or the address of a host"))),
        (_, false) => Err(error(&format!("{port:?} is not a port from 1 to 65535"))),
        _ if name.is_some() => Ok(ScrapeSource::Name(address.to_owned())),
        _ => Ok(ScrapeSource::Address(address.to_owned())),
    }
}

/// Parses an address to listen on.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write the address and the port to listen on, as in 127.0.0.1:9100 or [::]:9100".into())
}

/// The message of an error in an address.
fn error(reason: &str) -> String {
    format!(
        "{reason}; write HOST:PORT as in 127.0.0.1:5053 or [::1]:5053, or dns:HOST:PORT for all addresses of a name"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_name_that_stands_for_several() {
        for (text, expected) in [
            ("127.0.0.1:5053", ScrapeSource::Address("127.0.0.1:5053".into())),
            ("[::1]:5053", ScrapeSource::Address("[::1]:5053".into())),
            ("scaler.shop.svc:80", ScrapeSource::Address("scaler.shop.svc:80".into())),
            ("dns:dispatchers:5052", ScrapeSource::Name("dispatchers:5052".into())),
            ("dns:5052", ScrapeSource::Address("dns:5052".into())),
        ] {
            assert_eq!(source(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_the_fault_of_a_source() {
        for (text, words) in [
            ("", "the port is missing"),
            ("scaler", "the port is missing"),
            (":5053", "\"\" is not the name"),
            ("scaler:", "\"\" is not a port"),
            ("scaler:0", "\"0\" is not a port"),
            ("scaler:65536", "\"65536\" is not a port"),
            ("scaler:+80", "\"+80\" is not a port"),
            ("::1:5053", "in brackets"),
            ("[::g]:5053", "is not the name"),
            ("a b:5053", "\"a b\" is not the name"),
            ("http://scaler:5053", "without a scheme and a path"),
            ("scaler:5053/metrics", "without a scheme and a path"),
            ("dns::5053", "\"\" is not the name"),
        ] {
            let error = source(text).expect_err("refused");
            assert!(error.contains(words) && error.contains("write HOST:PORT"), "{text:?}: {error}");
        }
    }

    #[test]
    fn only_the_host_of_a_url_without_tls_is_read_by_itself() {
        let host = |url: &str| default_source(&url.parse().expect("a URI"), &[]);
        assert_eq!(host("http://a/predict"), Some(ScrapeSource::Address("a:80".into())));
        assert_eq!(host("https://a/predict"), None);
    }

    #[test]
    fn the_metrics_of_a_host_are_read_where_resolve_sends_the_load() {
        let overrides = ["other:80:::2", "Model.example:80:::1,127.0.0.1"].map(|text| text.parse().expect("good"));
        let host = |url: &str| default_source(&url.parse().expect("a URI"), &overrides);
        assert_eq!(host("http://model.example/predict"), Some(ScrapeSource::Address("[::1]:80".into())));
        assert_eq!(host("http://model.example:81/"), Some(ScrapeSource::Address("model.example:81".into())));
    }
}

//! What the node serves to the API server, over TLS: metrics.k8s.io, and what its pods have printed.

use super::Shared;
use super::metrics::{self, Samples};
use crate::network;
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use service::respond::{self, Reply};
use service::tls::Tls;
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// On the node's address (a kubelet's).
pub(super) const PORT: u16 = 10250;

/// Serves from now on.
///
/// # Errors
/// When it cannot.
pub(super) async fn serve(shared: &Arc<Shared>) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["node".to_owned()])?;
    let folder = tempfile::tempdir()?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    let tls = Tls::open(certificate, key)?;
    let listener = TcpListener::bind((network::NODE, PORT)).await.context("listen for the API server")?;
    let samples = Samples::default();
    tokio::spawn(metrics::measure(shared.clone(), samples.clone()));
    let shared = shared.clone();
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&request, &shared, &samples));
    tokio::spawn(async move {
        // Its files are read again now and then.
        let _folder = folder;
        service::server::serve(listener, Some(tls), handle, std::future::pending(), Duration::ZERO).await;
    });
    Ok(())
}

fn answer(request: &Request<Incoming>, shared: &Shared, samples: &Samples) -> Reply {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    if let Some(rest) = path.strip_prefix(metrics::GROUP) {
        return metrics::answer(rest, query, shared, samples);
    }
    // /containerLogs/NAMESPACE/POD/CONTAINER
    let pod = path.strip_prefix("/containerLogs/").and_then(|rest| rest.split('/').nth(1));
    match pod.and_then(|name| shared.pods().get(name).cloned()) {
        Some(pod) => {
            let printed = fs::read_to_string(shared.log(&pod)).unwrap_or_default();
            let lines = query.split('&').find_map(|pair| pair.strip_prefix("tailLines=")?.parse().ok());
            respond::text("text/plain", end(&printed, lines).to_owned())
        }
        None => respond::bytes(StatusCode::NOT_FOUND, "text/plain", "no such pod is here".into()),
    }
}

/// The last lines, or all.
fn end(text: &str, lines: Option<usize>) -> &str {
    let Some(lines) = lines else { return text };
    let lengths = text.split_inclusive('\n').rev().take(lines).map(str::len);
    &text[text.len() - lengths.sum::<usize>()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", None, "a\nb\nc\n"),
            ("a\nb\nc\n", Some(2), "b\nc\n"),
            ("a\nb\nc", Some(1), "c"),
            ("a\nb\nc\n", Some(9), "a\nb\nc\n"),
            ("a\n", Some(0), ""),
            ("", Some(3), ""),
        ] {
            assert_eq!(end(text, lines), expected, "{lines:?} of {text:?}");
        }
    }
}

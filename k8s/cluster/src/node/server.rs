//! The node's HTTPS server for the API server: metrics.k8s.io, and the logs of pods.

use super::NodeState;
use super::metrics::{self, UsageSamples};
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

/// The port on the node's address, a kubelet's.
pub(super) const PORT: u16 = 10250;

/// Starts a task that serves, with a certificate made for it.
///
/// # Errors
/// If the port is taken, or the certificate cannot be written.
pub(super) async fn serve(shared: &Arc<NodeState>) -> Result<()> {
    let pair = rcgen::generate_simple_self_signed(["node".to_owned()])?;
    let folder = tempfile::tempdir()?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&certificate, pair.cert.pem())?;
    fs::write(&key, pair.signing_key.serialize_pem())?;
    let tls = Tls::open(certificate, key)?;
    let address = (network::NODE_ADDRESS, PORT);
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen at {}:{PORT}", address.0))?;
    let samples = UsageSamples::default();
    tokio::spawn(metrics::measure(shared.clone(), samples.clone()));
    let shared = shared.clone();
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&request, &shared, &samples));
    tokio::spawn(async move {
        // The server looks for changes of its certificate, so the files must stay.
        let _folder = folder;
        service::server::serve(listener, Some(tls), handle, std::future::pending(), Duration::ZERO).await;
    });
    Ok(())
}

fn answer(request: &Request<Incoming>, shared: &NodeState, samples: &UsageSamples) -> Reply {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    if let Some(rest) = path.strip_prefix(metrics::API_PATH) {
        return metrics::answer(rest, query, shared, samples);
    }
    // /containerLogs/NAMESPACE/POD/CONTAINER
    let pod = path.strip_prefix("/containerLogs/").and_then(|rest| rest.split('/').nth(1));
    match pod.and_then(|name| shared.pods().get(name).cloned()) {
        Some(pod) => {
            let log = fs::read_to_string(shared.log_path(&pod)).unwrap_or_default();
            let count = query.split('&').find_map(|pair| pair.strip_prefix("tailLines=")?.parse().ok());
            respond::text("text/plain", last_lines(&log, count).to_owned())
        }
        None => respond::bytes(StatusCode::NOT_FOUND, "text/plain", "no such pod is on this node".into()),
    }
}

/// The last `count` lines of a text with their line ends, or the whole text.
fn last_lines(text: &str, count: Option<usize>) -> &str {
    let Some(count) = count else { return text };
    let bytes: usize = text.split_inclusive('\n').rev().take(count).map(str::len).sum();
    &text[text.len() - bytes..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        for (text, count, expected) in [
            ("a\nb\nc\n", None, "a\nb\nc\n"),
            ("a\nb\nc\n", Some(2), "b\nc\n"),
            ("a\nb\nc", Some(1), "c"),
            ("a\nb\nc\n", Some(9), "a\nb\nc\n"),
            ("a\n", Some(0), ""),
            ("", Some(3), ""),
        ] {
            assert_eq!(last_lines(text, count), expected, "{count:?} of {text:?}");
        }
    }
}

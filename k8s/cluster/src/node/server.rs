//! The node's HTTPS server, which answers the API server's requests for metrics.k8s.io and for the logs of pods.

use super::NodeState;
use super::metrics::{self, UsageSamples};
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use service::respond::{self, Reply};
use service::tls::Tls;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The port of the server, which is that of a kubelet.
pub const PORT: u16 = 10250;

/// Makes a certificate and starts a task that serves requests.
///
/// # Errors
/// If the port is taken, or the certificate cannot be made.
pub(super) async fn serve(shared: &Arc<NodeState>) -> Result<()> {
    let pair = rcgen::generate_simple_self_signed(["node".to_owned()]).context("make the node's certificate")?;
    let tls = Tls::of_pem(pair.cert.pem(), pair.signing_key.serialize_pem()).context("use the node's certificate")?;
    let address = SocketAddr::from((shared.network.families.primary.node_address(), PORT));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen at {address}"))?;
    let samples = UsageSamples::default();
    tokio::spawn(metrics::measure(shared.clone(), samples.clone()));
    let shared = shared.clone();
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&request, &shared, &samples));
    tokio::spawn(service::server::serve(listener, Some(tls), handle, std::future::pending(), Duration::ZERO));
    Ok(())
}

fn answer(request: &Request<Incoming>, shared: &NodeState, samples: &UsageSamples) -> Reply {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    if let Some(rest) = path.strip_prefix(metrics::API_PATH) {
        return metrics::answer(rest, query, shared, samples);
    }
    // The path of logs is /containerLogs/NAMESPACE/POD/CONTAINER.
    let pod = path.strip_prefix("/containerLogs/").and_then(|rest| rest.split('/').nth(1));
    match pod.and_then(|name| shared.pods().get(name).cloned()) {
        Some(pod) => {
            let log = fs::read_to_string(shared.log_path(&pod)).unwrap_or_default();
            let count = query.split('&').find_map(|pair| pair.strip_prefix("tailLines=")?.parse().ok());
            respond::text("text/plain", last_lines(&log, count).to_owned())
        }
        None => {
            respond::bytes(StatusCode::NOT_FOUND, "text/plain", "this node has no such path, or no such pod".into())
        }
    }
}

/// The last `count` lines of a text with their line ends; the whole text if `count` is `None`.
fn last_lines(text: &str, count: Option<usize>) -> &str {
    let Some(count) = count else { return text };
    let bytes: usize = text.split_inclusive('\n').rev().take(count).map(str::len).sum();
    &text[text.len() - bytes..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
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

//! The server that receives the load: its address, and the parts that all requests have in common.

use crate::payload::Payload;
use crate::request_id::RequestIds;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use service::wire::header;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest time for opening the connection that tests whether the server listens.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The server that receives the load, and the requests to it without their bodies.
#[derive(Debug, Clone)]
pub struct LoadTarget {
    /// The address that the URL's host resolved to at the start. All connections go there, without a proxy.
    pub address: SocketAddr,
    /// Longest time for one request, from its scheduled send time to the whole answer.
    pub timeout: Duration,
    path: Uri,
    headers: HeaderMap,
}

impl LoadTarget {
    /// Resolves the host of `uri` and connects once, so that a missing server is noticed before the run. The headers in
    /// `extra` replace loadgen's headers of the same names. `budget` is sent to the server with each request as its
    /// timeout, and `top_k` is added to the query.
    ///
    /// # Errors
    /// If `uri` names no host, its scheme is not `http`, or no server listens there.
    pub async fn connect(
        uri: &Uri,
        extra: &[(HeaderName, HeaderValue)],
        timeout: Duration,
        budget: Option<Duration>,
        top_k: Option<u32>,
    ) -> Result<Self> {
        let host = host_and_port(uri)?;
        let connecting = tokio::time::timeout(REACH_TIMEOUT, TcpStream::connect(&host));
        let stream = connecting
            .await
            .with_context(|| format!("connect to {host}: no answer within {REACH_TIMEOUT:?}; check --url"))?;
        let stream = stream.with_context(|| format!("connect to {host}; does the dispatcher run there?"))?;
        let address = stream.peer_addr().with_context(|| format!("read the address of the connection to {host}"))?;

        let mut headers = HeaderMap::new();
        headers.insert(
            HOST,
            HeaderValue::from_str(&host).with_context(|| format!("--url ({uri}): the host is not valid in HTTP"))?,
        );
        if let Some(budget) = budget {
            headers.insert(header::TIMEOUT_MS, HeaderValue::from_str(&budget.as_millis().to_string())?);
        }
        // Without this loop, `extend` would add a second value to a header that has one already.
        for (name, _) in extra {
            headers.remove(name);
        }
        headers.extend(extra.iter().cloned());
        Ok(Self { address, timeout, path: path(uri, top_k)?, headers })
    }

    /// The ids of the requests of one load: new ones, or the id that the user gave as a header.
    pub fn request_ids(&self) -> RequestIds {
        let given = self.headers.get(header::REQUEST_ID).cloned();
        given.map_or_else(|| RequestIds::numbered(rand::random()), RequestIds::Fixed)
    }

    /// A request with `payload` as its body.
    pub fn request(&self, payload: &Payload) -> Request<Full<Bytes>> {
        let mut request = Request::post(self.path.clone())
            .body(Full::new(payload.body.clone()))
            .expect("the method and the path are valid");
        request.headers_mut().clone_from(&self.headers);
        request.headers_mut().insert(CONTENT_TYPE, payload.content_type.clone());
        request
    }
}

/// The host and the port of a URL, as `host:port`.
///
/// # Errors
/// If the URL names no host, or its scheme is not `http`.
pub fn host_and_port(uri: &Uri) -> Result<String> {
    ensure!(
        uri.scheme_str() == Some("http"),
        "--url ({uri}) must start with http://, as in http://127.0.0.1:5052/predict"
    );
    let authority = uri
        .authority()
        .with_context(|| format!("--url ({uri}) names no host; write it like http://127.0.0.1:5052/predict"))?;
    ensure!(!authority.host().is_empty(), "--url ({uri}) names no host; write it like http://127.0.0.1:5052/predict");
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

/// The path and the query of `uri`, with `top_k` added to the query.
fn path(uri: &Uri, top_k: Option<u32>) -> Result<Uri> {
    let mut path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    if let Some(top_k) = top_k {
        path.push(if uri.query().is_some() { '&' } else { '?' });
        path.push_str(&format!("top_k={top_k}"));
    }
    path.parse().with_context(|| format!("--url ({uri}): the path or the query is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_is_added_to_the_query() {
        let path = |uri: &str, top_k| path(&uri.parse().expect("a URI"), top_k).expect("a path").to_string();
        assert_eq!(path("http://a", None), "/");
        assert_eq!(path("http://a/predict", Some(3)), "/predict?top_k=3");
        assert_eq!(path("http://a/infer?x=1", Some(3)), "/infer?x=1&top_k=3");
    }

    #[test]
    fn the_default_port_is_80_and_other_schemes_are_refused() {
        let address = |uri: &str| host_and_port(&uri.parse().expect("a URI")).map_err(|error| error.to_string());
        assert_eq!(address("http://a/predict").as_deref(), Ok("a:80"));
        assert_eq!(address("http://user@[::1]:5052/predict").as_deref(), Ok("[::1]:5052"));
        assert!(address("https://a/").expect_err("refused").contains("http://"));
        assert!(address("/predict").expect_err("refused").contains("http://"));
    }
}

//! Where requests go and what stands in them, apart from their bodies.

use crate::payload::Payload;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use service::wire::header;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// For the first connection.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is asked, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// As the name resolved at the start; everything goes there.
    pub address: SocketAddr,
    /// For one request, from its scheduled send time.
    pub timeout: Duration,
    path: Uri,
    headers: HeaderMap,
}

impl Target {
    /// Resolves the name and connects once, so that a run against nobody ends before it begins. `budget` is told to the
    /// server with each request; `top_k` is added to the query.
    ///
    /// # Errors
    /// When nobody is there.
    pub async fn reach(
        uri: &Uri,
        extra: &[(HeaderName, HeaderValue)],
        timeout: Duration,
        budget: Option<Duration>,
        top_k: Option<u32>,
    ) -> Result<Self> {
        let place = place(uri)?;
        let connecting = tokio::time::timeout(REACH_TIMEOUT, TcpStream::connect(&place));
        let stream = connecting.await.with_context(|| format!("{place} did not answer within {REACH_TIMEOUT:?}"))?;
        let stream = stream.with_context(|| format!("connect to {place}; does the dispatcher run there?"))?;
        let address = stream.peer_addr().context("the address just connected to")?;

        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(&place)?);
        if let Some(budget) = budget {
            headers.insert(header::TIMEOUT_MS, HeaderValue::from_str(&budget.as_millis().to_string())?);
        }
        // Somebody's own take the place of these.
        for (name, _) in extra {
            headers.remove(name);
        }
        headers.extend(extra.iter().cloned());
        Ok(Self { address, timeout, path: path(uri, top_k)?, headers })
    }

    /// A request that carries `payload`.
    pub fn request(&self, payload: &Payload) -> Request<Full<Bytes>> {
        let mut request = Request::post(self.path.clone())
            .body(Full::new(payload.body.clone()))
            .expect("checked parts make a request");
        request.headers_mut().clone_from(&self.headers);
        request.headers_mut().insert(CONTENT_TYPE, payload.content_type.clone());
        request
    }
}

/// `host:port` of a URL.
///
/// # Errors
/// When it names no host, or is not plain HTTP.
pub fn place(uri: &Uri) -> Result<String> {
    ensure!(uri.scheme_str() == Some("http"), "--url ({uri}) must start with http://");
    let authority = uri.authority().with_context(|| format!("--url ({uri}) names no host"))?;
    ensure!(!authority.host().is_empty(), "--url ({uri}) names no host");
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

fn path(uri: &Uri, top_k: Option<u32>) -> Result<Uri> {
    let mut path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    if let Some(top_k) = top_k {
        path.push(if uri.query().is_some() { '&' } else { '?' });
        path.push_str(&format!("top_k={top_k}"));
    }
    path.parse().with_context(|| format!("the path of --url ({uri})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_added_to() {
        let path = |uri: &str, top_k| path(&uri.parse().expect("a URI"), top_k).expect("a path").to_string();
        assert_eq!(path("http://a", None), "/");
        assert_eq!(path("http://a/predict", Some(3)), "/predict?top_k=3");
        assert_eq!(path("http://a/infer?x=1", Some(3)), "/infer?x=1&top_k=3");
    }

    #[test]
    fn a_place_is_a_host_and_a_port() {
        let place = |uri: &str| place(&uri.parse().expect("a URI")).map_err(|error| error.to_string());
        assert_eq!(place("http://a/predict").as_deref(), Ok("a:80"));
        assert_eq!(place("http://user@[::1]:5052/predict").as_deref(), Ok("[::1]:5052"));
        assert!(place("https://a/").expect_err("refused").contains("http://"));
        assert!(place("/predict").expect_err("refused").contains("http://"));
    }
}

//! The server that receives the load, and the parts that all requests have in common.

use crate::answer::AnswerReader;
use crate::bearer_token::BearerToken;
use crate::config::target::Args;
use crate::connection::destination::{Destination, OpenError, Protocol};
use crate::connection::pool::ConnectionPool;
use crate::payload::Payload;
use crate::request_id::RequestIds;
use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::{Request, Uri};
use service::wire::header;
use std::sync::Arc;
use std::time::Duration;

pub use crate::connection::destination::host_and_port;

/// The server that receives the load, and the requests to it without their bodies.
#[derive(Debug, Clone)]
pub struct LoadTarget {
    /// Where connections go.
    pub destination: Arc<Destination>,
    /// How answers are read and judged.
    pub answers: AnswerReader,
    /// Longest time for one request, from its scheduled send time to the whole answer.
    pub timeout: Duration,
    /// The path and the query of requests; with HTTP/2 also the scheme and the host.
    uri: Uri,
    headers: HeaderMap,
    token: Option<Arc<BearerToken>>,
}

impl LoadTarget {
    /// Resolves the host of the URL and connects once, so that a missing server and wrong settings of TLS are noticed
    /// before the run. The headers of `--header` replace loadgen's headers of the same names.
    ///
    /// # Errors
    /// If the URL names no host, its scheme is neither `http` nor `https`, a file of a flag cannot be used, no server
    /// listens there, or it does not speak the protocol that the flags ask for.
    pub async fn connect(args: &Args) -> Result<Self> {
        let token = args.bearer_token_file.clone().map(BearerToken::follow).transpose()?;
        let protocol = args.protocol();
        let mut headers = headers(args)?;
        let uri = request_uri(&args.url, args.top_k, headers.get(HOST).filter(|_| protocol != Protocol::Http1))?;
        let destination = Destination::find(&args.url, protocol, &args.tls(), &args.resolve).await?;
        ConnectionPool::check(&destination).await.map_err(|error| {
            let host = &destination.host_and_port;
            let advice = match &error {
                OpenError::Connect(_) => format!("connect to {host}; does the dispatcher run there?"),
                OpenError::Tls(_) | OpenError::NotHttp2 => format!("connect to {host}"),
            };
            anyhow!(error).context(advice)
        })?;
        if protocol != Protocol::Http1 {
            // The host is a part of the URI.
            headers.remove(HOST);
        }
        let destination = Arc::new(destination);
        Ok(Self { destination, answers: args.answers(), timeout: args.timeout, uri, headers, token })
    }

    /// Most requests in flight on this number of connections.
    pub fn requests_in_flight(&self, connections: usize) -> usize {
        match self.destination.protocol {
            Protocol::Http1 => connections,
            Protocol::Http2(streams) => connections.saturating_mul(streams).min(tokio::sync::Semaphore::MAX_PERMITS),
        }
    }

    /// The ids of the requests of one load: new ones, or the id that the user gave as a header.
    pub fn request_ids(&self) -> RequestIds {
        let given = self.headers.get(header::REQUEST_ID).cloned();
        given.map_or_else(|| RequestIds::numbered(rand::random()), RequestIds::Fixed)
    }

    /// A request with `payload` as its body.
    pub fn request(&self, payload: &Payload) -> Request<Full<Bytes>> {
        let mut request = Request::post(self.uri.clone())
            .body(Full::new(payload.body.clone()))
            .expect("the method and the URI are valid");
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        if !self.headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, payload.content_type.clone());
        }
        if let Some(length) = &payload.json_length {
            headers.insert(header::INFERENCE_JSON_LENGTH, length.clone());
        }
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.authorization());
        }
        request
    }
}

/// The headers that all requests have.
fn headers(args: &Args) -> Result<HeaderMap> {
    let host_and_port = host_and_port(&args.url)?;
    let default_port = if args.url.scheme_str() == Some("https") { ":443" } else { ":80" };
    // Some servers compare the header with their name and do not know that the default port may follow.
    let host = host_and_port.strip_suffix(default_port).unwrap_or(&host_and_port);
    let host =
        HeaderValue::from_str(host).with_context(|| format!("--url ({}): the host is not valid in HTTP", args.url))?;
    let mut headers = HeaderMap::new();
    headers.insert(HOST, host);
    if let Some(budget) = args.budget {
        headers.insert(header::TIMEOUT_MS, HeaderValue::from_str(&budget.as_millis().to_string())?);
    }
    // Without this loop, `extend` would add a second value to a header that has one already.
    for (name, value) in &args.header {
        headers.remove(name);
        // Another length than that of the body would cut the body off, or make the server wait for more.
        ensure!(name != CONTENT_LENGTH, "--header {name}: loadgen sends the length of each body; leave it out");
        let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
        ensure!(
            name != TRANSFER_ENCODING || is_chunked,
            "--header {name}: loadgen can only send bodies that are chunked; leave it out"
        );
        let is_of_http1 = [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE].contains(name)
            || ["keep-alive", "proxy-connection"].contains(&name.as_str());
        ensure!(!args.http2 || !is_of_http1, "--header {name}: HTTP/2 has no such header; leave it out, or --http2");
    }
    headers.extend(args.header.iter().cloned());
    Ok(headers)
}

/// The URI of requests: the path and the query of `url`, with `top_k` added to the query, and before them the scheme
/// and `host` if it is given.
fn request_uri(url: &Uri, top_k: Option<u32>, host: Option<&HeaderValue>) -> Result<Uri> {
    let mut path = url.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    if let Some(top_k) = top_k {
        path.push(if url.query().is_some() { '&' } else { '?' });
        path.push_str(&format!("top_k={top_k}"));
    }
    if let Some(host) = host {
        let host = host.to_str().context("--header Host: the value is not valid in HTTP")?;
        path = format!("{}://{host}{path}", url.scheme_str().unwrap_or("http"));
    }
    path.parse().with_context(|| format!("--url ({url}): the path or the query is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cli, Command};

    fn args(flags: &[&str]) -> Args {
        let load = ["loadgen", "run", "--rate=1", "--duration=1s"];
        let cli = Cli::read(load.iter().chain(flags).map(Into::into)).expect("good flags");
        let Command::Run(args) = cli.command else { panic!("another command") };
        args.target
    }

    #[test]
    fn top_k_is_added_to_the_query_and_http2_needs_the_whole_uri() {
        let host = HeaderValue::from_static("b:1");
        let uri =
            |url: &str, top_k, host| request_uri(&url.parse().expect("a URI"), top_k, host).expect("a URI").to_string();
        assert_eq!(uri("http://a", None, None), "/");
        assert_eq!(uri("http://a/predict", Some(3), None), "/predict?top_k=3");
        assert_eq!(uri("http://a/infer?x=1", Some(3), None), "/infer?x=1&top_k=3");
        assert_eq!(uri("https://a/infer?x=1", Some(3), Some(&host)), "https://b:1/infer?x=1&top_k=3");
    }

    #[test]
    fn the_host_has_a_port_unless_it_is_the_default() {
        for (flags, host) in [
            (&["--url=http://a/"][..], "a"),
            (&["--url=http://a:80/"], "a"),
            (&["--url=http://a:443/"], "a:443"),
            (&["--url=https://a:443/"], "a"),
            (&["--url=https://[::1]:8443/"], "[::1]:8443"),
            (&["--url=https://[::1]/"], "[::1]"),
            (&["--url=http://a/", "--header=Host: b"], "b"),
        ] {
            assert_eq!(headers(&args(flags)).expect("good")[HOST], host, "{flags:?}");
        }
        for header in ["connection", "proxy-connection"] {
            let given = format!("--header={header}: close");
            let error = headers(&args(&["--http2", &given])).expect_err("refused").to_string();
            assert!(error.contains(&format!("--header {header}")), "{error}");
        }
    }

    #[test]
    fn a_header_that_would_break_the_framing_of_the_body_is_refused() {
        for (header, name) in
            [("Content-Length: 5", "content-length"), ("Transfer-Encoding: gzip", "transfer-encoding")]
        {
            let error = headers(&args(&["--header", header])).expect_err("refused").to_string();
            assert!(error.contains(name) && error.contains("leave it out"), "{error}");
        }
        assert!(headers(&args(&["--header=Transfer-Encoding: Chunked"])).is_ok());
    }
}

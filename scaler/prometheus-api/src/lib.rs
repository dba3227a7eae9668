//! Queries over Prometheus's HTTP API. Knows nothing of dispatchers.
//!
//! Published clients of that API depend on reqwest and `url`, together some thirty crates. This crate sends a GET
//! request and parses the answer with thirty lines of types.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use service::fetch::error_chain;
use service::file_watcher;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The limits of one answer.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The time within which the whole answer must arrive.
    pub timeout: Duration,
    /// The largest body, in bytes.
    pub max_bytes: usize,
}

/// The limits of a query at one instant. The scaler's control loop makes such a query twice a second.
const INSTANT: Bounds = Bounds { timeout: Duration::from_secs(2), max_bytes: 8 << 20 };

/// The address of a Prometheus: `http://HOST[:PORT][/PREFIX]`, or https.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

/// A text that is no [`BaseUrl`], and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address of a Prometheus: {1}; give one such as http://prometheus.monitoring:9090")]
pub struct InvalidBaseUrl(String, &'static str);

impl FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUrl> {
        let wrong = |reason| InvalidBaseUrl(text.into(), reason);
        let uri: Uri = text.parse().map_err(|_malformed| wrong("it is no URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("it has no scheme and host"))?;
        // After the host, brackets of IPv6 included, there may be a colon and a port.
        let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("its scheme is neither http nor https"));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("it has a user name, and other users can see flags; use --prometheus-token-file"));
        }
        if authority.host().is_empty() {
            return Err(wrong("it has no host"));
        }
        if !port.is_empty() && !port[1..].parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(wrong("its port is no number from 1 to 65535"));
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(wrong("it has a query or a fragment"));
        }
        Ok(Self(text.trim_end_matches('/').into()))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reason why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The error while the certificates of the system's authorities were read.
    #[error("read the certificates of authorities: {0}; name a PEM file with SSL_CERT_FILE")]
    Certificates(String),
    /// The error while the token's file was read. It names the file.
    #[error("--prometheus-token-file: {0}")]
    Token(std::io::Error),
    /// The token's file, whose content cannot be a token.
    #[error("--prometheus-token-file {}: expected one line of visible ASCII characters", .0.display())]
    NoToken(PathBuf),
    /// The address, and the reason why it gave no HTTP answer.
    #[error("ask {0}: {1}; is that Prometheus running?")]
    Broken(BaseUrl, String),
    /// The address, and the time within which it gave no whole answer.
    #[error("{0} did not answer within {1:?}; is it overloaded, or does the query select too many series?")]
    Timeout(BaseUrl, Duration),
    /// The address, the query, and the largest answer that is read, in bytes.
    #[error("{0} answered {1:?} with more than {mib} MiB; select fewer series (--prometheus-selector)", mib = .2 >> 20)]
    TooLarge(BaseUrl, String, usize),
    /// The address, and the status of its answer, 401 or 403: the token is missing or wrong.
    #[error("{0} answers {1}; give a valid token by --prometheus-token-file")]
    Unauthorized(BaseUrl, StatusCode),
    /// The address, the query that Prometheus refused, and its reason.
    #[error("{0} refused {1:?}: {2}")]
    Refused(BaseUrl, String, String),
    /// The address, the query, and the warnings with which it was answered.
    #[error("{0} answered {1:?} with warnings, so the answer may be partial: {2}; check the servers behind it")]
    Warned(BaseUrl, String, String),
    /// The answer has another form than the answers of Prometheus.
    #[error(
        "{base} answered {query:?} with {status} and no {expected} ({reason}); check that this is a Prometheus, and \
         its whole prefix"
    )]
    Malformed {
        /// The address of the Prometheus.
        base: BaseUrl,
        /// The query.
        query: String,
        /// The status of the answer.
        status: StatusCode,
        /// The expected kind of data: vector or matrix.
        expected: &'static str,
        /// The difference from the expected data.
        reason: String,
    },
}

/// An element of an instant vector.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Element {
    /// The labels, including the name.
    pub metric: BTreeMap<String, String>,
    /// The time of evaluation in seconds since 1970, and the value as a text.
    value: (f64, String),
}

impl Element {
    /// An element as Prometheus would send it.
    pub fn new(metric: BTreeMap<String, String>, evaluated: f64, value: f64) -> Self {
        Self { metric, value: (evaluated, value.to_string()) }
    }

    /// The time at which the query was evaluated, by Prometheus's clock, in seconds since 1970.
    pub fn evaluated(&self) -> f64 {
        self.value.0
    }

    /// The value; NaN if the text is no number.
    pub fn value(&self) -> f64 {
        self.value.1.parse().unwrap_or(f64::NAN)
    }
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct ApiAnswer<T> {
    data: Option<T>,
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Element>),
}

/// The client of one Prometheus.
#[derive(Debug)]
pub struct Client {
    base: BaseUrl,
    token_file: Option<PathBuf>,
    http: Http<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Client {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// If the token, or the certificates for https, cannot be read.
    pub fn new(base: BaseUrl, token_file: Option<PathBuf>) -> Result<Self, Error> {
        if let Some(path) = &token_file {
            token(path)?;
        }
        let unreadable = |error: &dyn std::error::Error| Error::Certificates(error.to_string());
        let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| unreadable(&error))?;
        let tls = match base.0.starts_with("https:") {
            true => tls.with_native_roots().map_err(|error| unreadable(&error))?,
            // Without https, no certificate is ever checked, so the certificates need not be readable.
            false => tls.with_root_certificates(RootCertStore::empty()),
        };
        let tls = tls.with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { base, token_file, http: Http::builder(TokioExecutor::new()).build(connector) })
    }

    /// The instant vector that `query` gives now.
    ///
    /// # Errors
    /// If there is no whole answer. An answer with warnings is an error, since warnings mean that it is partial.
    pub async fn query(&self, query: &str) -> Result<Vec<Element>, Error> {
        let path = format!("query?query={}", encoded(query));
        let Data::Vector(elements) = self.get(&path, query, "vector", INSTANT).await?;
        Ok(elements)
    }

    /// The `data` of the answer to `/api/v1/{path}`. Messages name `query` and the `expected` kind of data.
    ///
    /// # Errors
    /// If there is no whole answer within `bounds`. An answer with warnings is an error, since warnings mean that it is
    /// partial.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &str,
        expected: &'static str,
        bounds: Bounds,
    ) -> Result<T, Error> {
        let answer = tokio::time::timeout(bounds.timeout, self.fetch(path, query, bounds.max_bytes)).await;
        let (status, body) = answer.map_err(|_elapsed| Error::Timeout(self.base.clone(), bounds.timeout))??;
        self.data(query, expected, status, &body)
    }

    async fn fetch(&self, path: &str, query: &str, max_bytes: usize) -> Result<(StatusCode, Bytes), Error> {
        let broken = |error: &dyn std::error::Error| Error::Broken(self.base.clone(), error_chain(error));
        let mut request = Request::get(format!("{}/api/v1/{path}", self.base)).header(ACCEPT, "application/json");
        if let Some(path) = &self.token_file {
            // The token is read for each request, since it may be replaced while the program runs.
            request = request.header(AUTHORIZATION, token(path)?);
        }
        let request = request.body(Empty::new()).map_err(|error| broken(&error))?;
        let response = self.http.request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max_bytes).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Error::TooLarge(self.base.clone(), query.into(), max_bytes),
            false => broken(error.as_ref()),
        })?;
        Ok((status, body.to_bytes()))
    }

    /// The `data` of an answer with `status` and `body`. Messages name `query` and the `expected` kind of data.
    ///
    /// # Errors
    /// If the answer is an error, has warnings, or is not that of a Prometheus.
    pub fn data<T: DeserializeOwned>(
        &self,
        query: &str,
        expected: &'static str,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, Error> {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(Error::Unauthorized(self.base.clone(), status));
        }
        match serde_json::from_slice::<ApiAnswer<T>>(body) {
            Ok(ApiAnswer { error: Some(reason), .. }) => Err(Error::Refused(self.base.clone(), query.into(), reason)),
            Ok(ApiAnswer { warnings, .. }) if !warnings.is_empty() => {
                Err(Error::Warned(self.base.clone(), query.into(), warnings.join("; ")))
            }
            Ok(ApiAnswer { data: Some(data), .. }) if status == StatusCode::OK => Ok(data),
            Ok(_) => Err(self.malformed(query, expected, status, "it holds no data")),
            Err(error) => Err(self.malformed(query, expected, status, &error.to_string())),
        }
    }

    /// The error for an answer whose data is not the `expected` data.
    pub fn unusable(&self, query: &str, expected: &'static str, reason: &str) -> Error {
        self.malformed(query, expected, StatusCode::OK, reason)
    }

    fn malformed(&self, query: &str, expected: &'static str, status: StatusCode, reason: &str) -> Error {
        Error::Malformed { base: self.base.clone(), query: query.into(), status, expected, reason: reason.into() }
    }
}

/// The query, encoded as a part of a URL.
pub fn encoded(query: &str) -> impl fmt::Display {
    utf8_percent_encode(query, NON_ALPHANUMERIC)
}

/// The value of the header `Authorization` with the token that a file has.
fn token(path: &PathBuf) -> Result<HeaderValue, Error> {
    let [content] = file_watcher::contents(std::array::from_ref(path)).map_err(Error::Token)?;
    let token = content.trim_ascii();
    let is_token = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    let value = is_token.then(|| HeaderValue::from_bytes(&[b"Bearer ", token].concat()));
    let mut value = value.and_then(Result::ok).ok_or_else(|| Error::NoToken(path.clone()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A client that needs neither a token nor certificates.
    fn client(base: &str) -> Client {
        Client::new(base.parse().expect("a base"), None).expect("a client")
    }

    #[test]
    fn a_base_url_has_scheme_host_port_and_prefix() {
        for (text, printed) in [
            ("http://localhost:9090", "http://localhost:9090"),
            ("http://localhost:9090/", "http://localhost:9090"),
            ("https://a.example/prometheus/", "https://a.example/prometheus"),
            ("http://[::1]:9090", "http://[::1]:9090"),
        ] {
            assert_eq!(text.parse::<BaseUrl>().expect(text).to_string(), printed);
        }
        for (word, all) in [
            ("no URL", &["", "a b", "http://"][..]),
            ("no scheme", &["/prometheus"]),
            ("neither http", &["localhost:9090", "localhost", "ftp://a"]),
            ("host", &["http://:9090"]),
            ("port", &["http://a:0", "http://a:", "http://a:99999", "http://a:x"]),
            ("user name", &["http://me:secret@a"]),
            ("query", &["http://a/?query=up", "http://a/#graph"]),
        ] {
            for bad in all {
                let error = bad.parse::<BaseUrl>().expect_err(bad).to_string();
                assert!(error.contains(word) && error.contains(&format!("{bad:?}")), "{error}");
            }
        }
    }

    #[test]
    fn an_answer_is_a_vector_or_an_error_with_the_reason() {
        let client = client("http://a");
        let vector = |status, body: &str| {
            client.data("up", "vector", status, body.as_bytes()).map(|Data::Vector(elements)| elements)
        };
        let ok = r#"{"data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"NaN"]}]}}"#;
        let elements = vector(StatusCode::OK, ok).expect("a vector");
        assert_eq!((elements[0].metric["a"].as_str(), elements[0].evaluated()), ("b", 1.5));
        assert!(elements[0].value().is_nan());
        for (status, body, word) in [
            (400, r#"{"status":"error","errorType":"bad_data","error":"parse error at 1:3"}"#, "parse error at 1:3"),
            (200, r#"{"warnings":["store a is away"],"data":{"resultType":"vector","result":[]}}"#, "away"),
            (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"1"]}}"#, "scalar"),
            (200, r#"{"data":{"resultType":"vector","result":[{"metric":{},"value":[1]}]}}"#, "no vector"),
            (200, r#"{"data":{"resultType":"matrix","result":[]}}"#, "no vector"),
            (200, r#"{"status":"success"}"#, "no data"),
            (200, "<html>", "no vector"),
            (404, "404 page not found", "whole prefix"),
            (302, "", "302"),
            (401, "", "token"),
            (403, ok, "token"),
            (503, ok, "no data"),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let error = vector(status, body).expect_err(body).to_string();
            assert!(error.contains(word), "{body}: {error}");
            assert_eq!(error.contains("refused"), status == 400, "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_late_or_long_is_an_error() {
        let short = Bounds { timeout: Duration::from_millis(50), ..INSTANT };
        let small = Bounds { max_bytes: 10, ..INSTANT };
        for (response, bounds, word) in [
            ("", short, "within 50ms"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfive", short, "within 50ms"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello there", small, "more than"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let base = format!("http://{}", listener.local_addr().expect("bound"));
            let client = client(&base);
            let server = async {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                socket.read_u8().await.expect("a question");
                socket.write_all(response.as_bytes()).await.expect("open");
                std::future::pending::<std::convert::Infallible>().await
            };
            let error = tokio::select! {
                outcome = client.get::<Data>("query?query=up", "up", "vector", bounds) => outcome.err().expect(word),
                never = server => match never {},
            };
            assert!(error.to_string().contains(word) && error.to_string().contains(&base), "{error}");
        }
    }

    #[test]
    fn a_token_is_one_line_of_visible_characters() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = file.path().to_owned();
        for bad in ["", "\n", "two words", "two\nlines", "caf\u{e9}"] {
            std::fs::write(&path, bad).expect("writable");
            assert!(matches!(token(&path), Err(Error::NoToken(_))), "{bad:?}");
        }
        std::fs::write(&path, "s3cret\n").expect("writable");
        let header = token(&path).expect("a token");
        assert!(header == "Bearer s3cret" && header.is_sensitive());
        let error = token(&PathBuf::from("no/such/token")).expect_err("missing").to_string();
        assert!(error.contains("no/such/token"), "{error}");
    }

    proptest! {
        #[test]
        fn bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,40}") {
            let _outcome = client("http://a").data::<Data>("up", "vector", StatusCode::OK, &body);
            let _outcome = text.parse::<BaseUrl>();
        }
    }
}

//! A relay between a program and the API server. It counts the bytes of answers, and gives an API server with old
//! EndpointSlices (`discovery.k8s.io/v1beta1`, before Kubernetes 1.21) those of `discovery.k8s.io/v1`: the fields that the
//! dispatcher reads are the same in both.

use super::interface::Interface;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// The API group of EndpointSlices in paths, with the version that the dispatcher asks for.
const SLICES: &str = "/apis/discovery.k8s.io/v1/";

/// The rules of a relay.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// The interface that the program is to use. EndpointSlices are hidden from it if it is the other one.
    pub interface: Interface,
    /// The version of the API server's EndpointSlices.
    pub slices_version: String,
    /// The resource whose answers are counted, the last part of its path.
    pub counted: &'static str,
}

/// A running relay. It ends when this value is dropped.
pub(super) struct Relay {
    /// The address at which the relay listens without TLS.
    pub address: SocketAddr,
    bytes: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

struct Upstream {
    client: Client,
    rules: Rules,
    bytes: Arc<AtomicU64>,
}

impl Relay {
    /// Starts a relay on loopback that reaches the API server by `client`, with its privileges.
    ///
    /// # Errors
    /// If no port is free.
    pub(super) async fn start(client: Client, rules: Rules) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen on loopback")?;
        let address = listener.local_addr().context("read the relay's own address")?;
        let bytes = Arc::new(AtomicU64::new(0));
        let upstream = Arc::new(Upstream { client, rules, bytes: bytes.clone() });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let upstream = upstream.clone();
                let handle = service_fn(move |request| {
                    let upstream = upstream.clone();
                    async move { Ok::<_, Infallible>(upstream.pass(request).await) }
                });
                // A program that closes its connection is no error.
                connections
                    .spawn(async { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), handle).await) });
            }
        });
        Ok(Self { address, bytes, _tasks: tasks })
    }

    /// The bytes of all counted answers so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Upstream {
    /// Sends a request to the API server. Returns its answer, whose body may never end.
    async fn pass(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let is_slices = path.starts_with(SLICES);
        if is_slices && self.rules.interface == Interface::Endpoints {
            return short(StatusCode::NOT_FOUND, "404 page not found".into());
        }
        let to = if is_slices { self.rules.translate_path(&path) } else { path.clone() };
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return short(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let mut upstream = Request::new(Body::from(body.to_vec()));
        *upstream.method_mut() = parts.method;
        *upstream.uri_mut() = to.parse::<Uri>().expect("the path of a valid URI is a valid URI");
        for name in [header::CONTENT_TYPE, header::ACCEPT] {
            if let Some(value) = parts.headers.get(&name) {
                upstream.headers_mut().insert(name, value.clone());
            }
        }
        let answer = match self.client.send(upstream).await {
            Ok(answer) => answer,
            Err(error) => return short(StatusCode::BAD_GATEWAY, error.to_string()),
        };
        let (status, kind) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
        let is_counted = parts.uri.path().ends_with(&format!("/{}", self.rules.counted));
        let counter = is_counted.then(|| self.bytes.clone());
        let translate = is_slices.then(|| self.rules.slices_version.clone()).filter(|version| version != "v1");
        // One chunk waits, so that a slow program slows the API server down.
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(forward(answer.into_body(), counter, translate, send));
        let body = BodyExt::boxed(StreamBody::new(ReceiverStream::new(receive).map(|chunk| Ok(Frame::data(chunk)))));
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
        response
    }
}

impl Rules {
    fn translate_path(&self, path: &str) -> String {
        path.replacen(SLICES, &format!("/apis/discovery.k8s.io/{}/", self.slices_version), 1)
    }
}

/// An answer of the relay itself.
fn short(status: StatusCode, text: String) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response
}

/// Sends the whole lines of `body` to `send`, counted and translated, until the body or the receiver ends.
async fn forward(
    mut body: Body,
    counter: Option<Arc<AtomicU64>>,
    translate: Option<String>,
    send: mpsc::Sender<Bytes>,
) {
    let mut waiting = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = send.closed() => return,
        };
        let is_end = frame.is_none();
        if let Some(Ok(frame)) = frame
            && let Ok(data) = frame.into_data()
        {
            waiting.extend_from_slice(&data);
        }
        let whole = if is_end {
            waiting.len()
        } else {
            waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
        };
        if whole > 0 {
            let lines: Vec<u8> = waiting.drain(..whole).collect();
            if let Some(counter) = &counter {
                counter.fetch_add(lines.len() as u64, Ordering::Relaxed);
            }
            let lines = match &translate {
                Some(version) => translated(lines, version),
                None => lines,
            };
            if send.send(lines.into()).await.is_err() {
                return;
            }
        }
        if is_end {
            return;
        }
    }
}

/// `lines` with `discovery.k8s.io/v1` for `discovery.k8s.io/VERSION`.
fn translated(lines: Vec<u8>, version: &str) -> Vec<u8> {
    // The API server writes valid UTF-8.
    let text = String::from_utf8_lossy(&lines);
    text.replace(&format!("\"discovery.k8s.io/{version}\""), "\"discovery.k8s.io/v1\"").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_slices_are_translated_and_no_other_version_is() {
        let old = br#"{"apiVersion":"discovery.k8s.io/v1beta1","kind":"EndpointSlice","a":"v1beta1"}"#.to_vec();
        let new = br#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","a":"v1beta1"}"#.to_vec();
        assert_eq!(translated(old, "v1beta1"), new);
        let other = br#"{"apiVersion":"policy/v1beta1"}"#.to_vec();
        assert_eq!(translated(other.clone(), "v1beta1"), other);
    }

    #[test]
    fn only_the_version_in_a_path_is_translated() {
        let rules = Rules { interface: Interface::Slices, slices_version: "v1beta1".into(), counted: "endpointslices" };
        let path = "/apis/discovery.k8s.io/v1/namespaces/v1/endpointslices?a=/v1/";
        let expected = "/apis/discovery.k8s.io/v1beta1/namespaces/v1/endpointslices?a=/v1/";
        assert_eq!(rules.translate_path(path), expected);
    }
}

//! The Open Inference Protocol v2 over REST, with the binary tensor data and classification extensions. What its bodies
//! mean is the business of the files below; this one is HTTP ↔ those.
//!
//! Source: <https://github.com/kserve/open-inference-protocol>, and Triton's `docs/protocol` for the extensions.

pub mod metadata;
pub mod output;
pub mod request;
pub mod response;
pub mod tensor;

use crate::handler::{Handler, Progress};
use futures_util::future::try_join_all;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_ENCODING, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use request::{Bounds, Request};
use response::{Encoded, Response};
use serde_json::json;
use service::body;
use service::headers::text;
use service::respond::{self, Reply};
use service::trace::TraceContext;
use service::wire::{Code, RequestError};
use std::time::{Duration, Instant};

/// The input that takes normalised numbers.
const INPUT: &str = "input";

/// The input that takes encoded pictures.
const IMAGE: &str = "image";

/// The one version of the model.
const VERSION: &str = "1";

/// Bytes of the JSON at the start of a body that goes on with tensors.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Characters of an error's text: what a client sent is quoted in it.
const MAX_ERROR: usize = 500;

/// What a path stands for.
#[derive(Debug, PartialEq)]
enum Resource {
    Server,
    Live,
    Ready,
    Model,
    ModelReady,
    Infer,
}

/// Whether a path belongs to the protocol.
pub(crate) fn owns(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// Answers a request to one of its paths.
pub(crate) async fn answer(handler: &Handler, request: hyper::Request<Incoming>) -> Reply {
    let received = Instant::now();
    let trace = TraceContext::from_headers(request.headers());
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let resource = match handler.served.get() {
        // Before it is loaded nobody knows the model's name.
        None if path.starts_with("/v2/models/") => Err(loading()),
        served => Resource::of(path, served.map_or("", |served| &served.name)),
    };
    let outcome = match resource {
        Ok(Resource::Infer) if head.method == Method::POST => infer(handler, &head.headers, body, received).await,
        resource => {
            body::discard(body).await;
            resource.map(|resource| describe(handler, &resource, &head.method))
        }
    };
    handler.sign(outcome.unwrap_or_else(|fault| refusal(&fault)), &trace)
}

impl Resource {
    fn of(path: &str, model: &str) -> Result<Self, RequestError> {
        let missing = |message| Err(RequestError::new(Code::NotFound, message));
        let parts: Vec<&str> = path.split('/').skip(2).collect();
        match parts[..] {
            [] | [""] => Ok(Self::Server),
            ["health", "live"] => Ok(Self::Live),
            ["health", "ready"] => Ok(Self::Ready),
            ["models", name, ..] if !percent_decode_str(name).eq(model.bytes()) => {
                missing(format!("there is no model {name:?}; there is {model:?}"))
            }
            ["models", _, "versions", version, ..] if version != VERSION => {
                missing(format!("there is no version {version:?} of {model}; there is {VERSION:?}"))
            }
            ["models", _] | ["models", _, "versions", _] => Ok(Self::Model),
            ["models", _, "ready"] | ["models", _, "versions", _, "ready"] => Ok(Self::ModelReady),
            ["models", _, "infer"] | ["models", _, "versions", _, "infer"] => Ok(Self::Infer),
            _ => missing(format!("no such path: {path}; inference is POST /v2/models/{model}/infer")),
        }
    }
}

fn describe(handler: &Handler, resource: &Resource, method: &Method) -> Reply {
    let allowed = if *resource == Resource::Infer { "POST" } else { "GET, HEAD" };
    if *resource == Resource::Infer || !matches!(*method, Method::GET | Method::HEAD) {
        let mut reply = refusal(&RequestError::new(Code::MethodNotAllowed, format!("this path takes {allowed} only")));
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return reply;
    }
    let ready = handler.admin.readiness.is_ready();
    let readiness = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match resource {
        Resource::Server => respond::json(StatusCode::OK, &metadata::Server::SELF),
        Resource::Live => respond::json(StatusCode::OK, &json!({"live": true})),
        Resource::Ready => respond::json(readiness, &json!({"ready": ready})),
        Resource::ModelReady => {
            respond::json(readiness, &json!({"name": handler.served.get().map(|served| &served.name), "ready": ready}))
        }
        Resource::Model | Resource::Infer => match handler.served.get() {
            Some(served) => respond::json(StatusCode::OK, &metadata::Model::new(served)),
            None => refusal(&loading()),
        },
    }
}

fn loading() -> RequestError {
    RequestError::new(Code::Busy, "the model is not loaded yet").retry_after(Duration::from_secs(1))
}

async fn infer(
    handler: &Handler,
    headers: &HeaderMap,
    body: Incoming,
    received: Instant,
) -> Result<Reply, RequestError> {
    let admit = || {
        let (slots, progress) = (handler.take(1)?, Progress::start(received));
        Ok((slots, progress, handler.deadline(headers, received)?, json_length(headers)?))
    };
    let (slots, _progress, deadline, json_length) = match admit() {
        Ok(admitted) => admitted,
        Err(fault) => {
            // Tensors are long: a client that is still sending would see a reset instead of the answer.
            body::discard(body).await;
            return Err(fault);
        }
    };
    let body = body::read(body, &handler.body, deadline).await?;
    let served = handler.served.get().ok_or_else(loading)?;
    let bounds = Bounds { capacity: handler.capacity, side: served.side };
    // Goes on if the client leaves, and the slot with it: no more wait to be parsed than there are slots.
    let parse = move || (Request::parse(&body.to_bytes(), json_length, bounds), slots, body);
    let parsed = tokio::task::spawn_blocking(parse).await;
    let (request, mut slots, _body) = parsed.map_err(|error| RequestError::new(Code::Internal, error.to_string()))?;
    let request = request?;
    if request.pictures.len() > 1 {
        slots.merge(handler.take(request.pictures.len() - 1)?);
    }
    let classify = request.pictures.into_iter().enumerate().map(|(index, picture)| {
        let slot = slots.split(1).expect("as many as pictures were taken");
        async move {
            let outcome = handler.pipeline.classify(picture, deadline, slot).await;
            match outcome {
                Ok(classified) if classified.logits.iter().all(|logit| logit.is_finite()) => Ok(classified.logits),
                Ok(_) => Err(bad(format!("picture {index}: its numbers are too large for the model"))),
                Err(fault) => Err(RequestError { message: format!("picture {index}: {}", fault.message), ..fault }),
            }
        }
    });
    // All are sent before the first is waited for, so that they meet in a batch.
    let rows = try_join_all(classify).await?;
    let (id, outputs) = (request.id.as_deref(), &request.outputs[..]);
    Ok(reply(Response { model: &served.name, id, outputs, rows: &rows, labels: &served.labels }.encode()))
}

/// What [`JSON_LENGTH`] says. A body that is encoded in any way is none that could be read.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, RequestError> {
    match text(headers, &CONTENT_ENCODING)? {
        None | Some("identity") => {}
        Some(encoding) => {
            let message = format!("Content-Encoding {encoding:?} is not supported; send the body as it is");
            return Err(RequestError::new(Code::UnsupportedMediaType, message));
        }
    }
    let Some(length) = text(headers, &JSON_LENGTH)? else { return Ok(None) };
    // `parse` alone takes a sign.
    let number = length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok()).flatten();
    number.map(Some).ok_or_else(|| bad(format!("{JSON_LENGTH} is {length:?}; it must be a number of bytes")))
}

fn reply(Encoded { body, json_length }: Encoded) -> Reply {
    match json_length {
        None => respond::bytes(StatusCode::OK, "application/json", body),
        Some(length) => {
            let mut reply = respond::bytes(StatusCode::OK, "application/octet-stream", body);
            reply.headers_mut().insert(JSON_LENGTH, HeaderValue::from(length));
            reply
        }
    }
}

/// A fault's answer, with the protocol's body in place of the contract's.
fn refusal(fault: &RequestError) -> Reply {
    let message: String = fault.message.chars().take(MAX_ERROR).collect();
    respond::error(fault, "").map(|_contract| json!({"error": message}).to_string().into())
}

fn bad(message: impl Into<String>) -> RequestError {
    RequestError::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_the_server_or_its_model() {
        for (path, expected) in [
            ("/v2", Ok(Resource::Server)),
            ("/v2/", Ok(Resource::Server)),
            ("/v2/health/live", Ok(Resource::Live)),
            ("/v2/health/ready", Ok(Resource::Ready)),
            ("/v2/models/m", Ok(Resource::Model)),
            ("/v2/models/m/ready", Ok(Resource::ModelReady)),
            ("/v2/models/m/infer", Ok(Resource::Infer)),
            ("/v2/models/m/versions/1", Ok(Resource::Model)),
            ("/v2/models/m/versions/1/ready", Ok(Resource::ModelReady)),
            ("/v2/models/m/versions/1/infer", Ok(Resource::Infer)),
            ("/v2/models/m/versions/2/infer", Err("there is no version \"2\" of m; there is \"1\"")),
            ("/v2/models/%6d/infer", Ok(Resource::Infer)),
            ("/v2/models/%zz", Err("there is no model \"%zz\"; there is \"m\"")),
            ("/v2/models/x/infer", Err("there is no model \"x\"; there is \"m\"")),
            ("/v2/models/m/versions", Err("no such path: /v2/models/m/versions; inference is POST /v2/models/m/infer")),
            ("/v2/repository/index", Err("no such path: /v2/repository/index; inference is POST /v2/models/m/infer")),
        ] {
            let found = Resource::of(path, "m").map_err(|fault| (fault.code, fault.message));
            assert_eq!(found, expected.map_err(|message| (Code::NotFound, message.to_owned())), "{path}");
        }
        assert!(!owns("/v20"));
    }

    #[test]
    fn headers_say_how_long_the_json_is_and_that_nothing_is_compressed() {
        for (name, value, expected) in [
            ("host", "x", Ok(None)),
            ("content-encoding", "identity", Ok(None)),
            ("content-encoding", "gzip", Err(Code::UnsupportedMediaType)),
            ("inference-header-content-length", "120", Ok(Some(120))),
            ("inference-header-content-length", "0", Ok(Some(0))),
            ("inference-header-content-length", "", Err(Code::BadRequest)),
            ("inference-header-content-length", "+1", Err(Code::BadRequest)),
            ("inference-header-content-length", "-1", Err(Code::BadRequest)),
            ("inference-header-content-length", "1.5", Err(Code::BadRequest)),
            ("inference-header-content-length", "18446744073709551616", Err(Code::BadRequest)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(json_length(&headers).map_err(|fault| fault.code), expected, "{name}: {value}");
        }
    }

    #[test]
    fn an_error_quotes_only_so_much_of_what_was_sent() {
        let reply = refusal(&bad("é".repeat(100_000)));
        assert_eq!(reply.status(), 400);
        let length = hyper::body::Body::size_hint(reply.body()).exact();
        assert_eq!(length, Some((MAX_ERROR * "é".len() + r#"{"error":""}"#.len()) as u64));
    }
}

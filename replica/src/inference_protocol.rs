//! The Open Inference Protocol v2 over REST, with its extensions for binary tensor data and classification. This file
//! owns paths, headers and statuses. The modules below it own the bodies.
//!
//! Source: <https://github.com/kserve/open-inference-protocol>, and Triton's `docs/protocol` for the extensions.

mod json;
pub mod metadata;
pub mod output;
pub mod request;
pub mod response;
pub mod tensor;

use crate::handler::{InProgress, ReplicaHandler, discard_refused, with_mark, without_panic, written};
use crate::pipeline::{Generation, Image, ImageRequest};
use crate::served_model::ServedModel;
use crate::work::Work;
use futures_util::future::try_join_all;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use request::{InferenceRequest, InputLimits};
use response::{Encoded, InferenceResponse};
use serde_json::json;
use service::body::{Chunks, Upload};
use service::coding;
use service::headers::text;
use service::respond::{self, Reply, inference_error};
use service::trace::TraceContext;
use service::wire::{Code, RequestError, header};
use slots::{SlotClient, TakenSlots};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The name of the input tensor with normalised numbers.
const INPUT: &str = "input";

/// The name of the input tensor with encoded images.
const IMAGE: &str = "image";

/// The only version of the model.
const VERSION: &str = "1";

/// A resource of the protocol, as a path names it.
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

/// Answers a request whose path belongs to the protocol.
pub(crate) async fn answer(handler: &ReplicaHandler, request: hyper::Request<Incoming>) -> Reply {
    let received = Instant::now();
    let trace = TraceContext::from_headers(request.headers());
    let client = SlotClient::from_headers(request.headers());
    let (head, body) = request.into_parts();
    let upload = Upload::new(&head.headers, body);
    let path = head.uri.path();
    let generation = handler.pipeline.generation();
    let resource = match &generation {
        // The name of the model is unknown until the model is loaded.
        None if path.starts_with("/v2/models/") => Err(loading()),
        generation => Resource::of(path, generation.as_ref().map_or("", |generation| &generation.model.name)),
    };
    let model = generation.map(|generation| generation.model.clone());
    let outcome = match resource {
        Ok(Resource::Infer) if head.method == Method::POST => {
            without_panic(infer(handler, &head.headers, client, upload, received)).await.and_then(|answer| answer)
        }
        resource => {
            handler.slots.forgo(client);
            upload.discard().await;
            resource.map(|resource| describe(handler, model.as_deref(), &resource, &head.method))
        }
    };
    handler.add_headers(outcome.unwrap_or_else(|fault| inference_error(&fault)), client, &trace)
}

impl Resource {
    /// The resource of `path` on a server whose model has the name `model`.
    ///
    /// # Errors
    /// If the path names no resource, or another model or version (status 404).
    fn of(path: &str, model: &str) -> Result<Self, RequestError> {
        let missing = |message| Err(RequestError::new(Code::NotFound, message));
        let parts: Vec<&str> = path.split('/').skip(2).collect();
        match parts[..] {
            [] | [""] => Ok(Self::Server),
            ["health", "live"] => Ok(Self::Live),
            ["health", "ready"] => Ok(Self::Ready),
            ["models", name, ..] if !percent_decode_str(name).eq(model.bytes()) => {
                missing(format!("there is no model {name:?}; this replica has {model:?}"))
            }
            ["models", _, "versions", version, ..] if version != VERSION => {
                missing(format!("there is no version {version:?} of {model}; the only version is {VERSION:?}"))
            }
            ["models", _] | ["models", _, "versions", _] => Ok(Self::Model),
            ["models", _, "ready"] | ["models", _, "versions", _, "ready"] => Ok(Self::ModelReady),
            ["models", _, "infer"] | ["models", _, "versions", _, "infer"] => Ok(Self::Infer),
            _ => missing(format!("no such path: {path}; send images to POST /v2/models/{model}/infer")),
        }
    }
}

/// Answers a request for the state or the metadata of a resource.
fn describe(handler: &ReplicaHandler, model: Option<&ServedModel>, resource: &Resource, method: &Method) -> Reply {
    let allowed = if *resource == Resource::Infer { "POST" } else { "GET, HEAD" };
    if *resource == Resource::Infer || !matches!(*method, Method::GET | Method::HEAD) {
        let mut reply =
            inference_error(&RequestError::new(Code::MethodNotAllowed, format!("this path takes {allowed} only")));
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return reply;
    }
    let ready = handler.admin.readiness.is_ready();
    let readiness = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match resource {
        Resource::Server => respond::json(StatusCode::OK, &metadata::ServerMetadata::SELF),
        Resource::Live => respond::json(StatusCode::OK, &json!({"live": true})),
        Resource::Ready => respond::json(readiness, &json!({"ready": ready})),
        Resource::ModelReady => {
            respond::json(readiness, &json!({"name": model.map(|model| &model.name), "ready": ready}))
        }
        Resource::Model | Resource::Infer => match model {
            Some(model) => respond::json(StatusCode::OK, &metadata::ModelMetadata::new(model)),
            None => inference_error(&loading()),
        },
    }
}

/// The error for a request that needs the model before it is loaded.
fn loading() -> RequestError {
    RequestError::new(Code::Busy, "the model is not loaded yet; retry in 1 s").retry_after(Duration::from_secs(1))
}

/// Answers an inference request.
async fn infer(
    handler: &ReplicaHandler,
    headers: &HeaderMap,
    client: SlotClient,
    upload: Upload,
    received: Instant,
) -> Result<Reply, RequestError> {
    let admit = || {
        let (slots, in_progress) = (handler.take_slot(client)?, InProgress::start(received));
        Ok((slots, in_progress, handler.deadline(headers, received)?, json_length(headers)?))
    };
    let (slots, _in_progress, deadline, json_length) = match admit() {
        Ok(admitted) => admitted,
        Err(fault) => {
            handler.slots.forgo(client);
            let mark = discard_refused(upload, &fault).await;
            return Ok(with_mark(inference_error(&fault), mark));
        }
    };
    let body = upload.read(&handler.body_limits, &handler.memory_budget, 0, deadline).await?;
    let deadline = handler.deadline_after_upload(deadline);
    let work = handler.work.begin();
    let computed = compute(handler, body, json_length, slots, deadline, &work).await;
    Ok(handler.with_work(computed.unwrap_or_else(|fault| inference_error(&fault)), &work))
}

/// Parses the body of an inference request, which has one of the slots that it needs, and answers it.
async fn compute(
    handler: &ReplicaHandler,
    body: Chunks,
    json_length: Option<usize>,
    slots: TakenSlots,
    deadline: Instant,
    work: &Work,
) -> Result<Reply, RequestError> {
    // A request is read and computed for the same model, also if another one takes over meanwhile.
    let generation = handler.pipeline.generation().ok_or_else(loading)?;
    let model = generation.model.clone();
    let limits = InputLimits { capacity: handler.capacity, side: model.side() };
    // If the client leaves, parsing goes on and keeps its slot. Otherwise the slots would not limit the number of
    // bodies that wait to be parsed.
    let parse = move || (InferenceRequest::parse(&body.to_bytes(), json_length, limits), slots, body);
    let parsing = tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(parse));
    let late = |_elapsed| RequestError::new(Code::DeadlineExceeded, "the deadline passed before the body was parsed");
    let failed = |error| RequestError::new(Code::Internal, format!("parse the body: {error}"));
    let (request, mut slots, _body) = parsing.await.map_err(late)?.map_err(failed)?;
    let InferenceRequest { id, images, outputs } = request?;
    if images.len() > 1 {
        handler.take_more_slots(&mut slots, images.len() - 1)?;
    }
    let rows = classify(handler, generation, images, slots, deadline, work).await?;
    let numbers = rows.len() * model.labels.len() * outputs.len();
    let encode = move || {
        let (ServedModel { name, version, labels, .. }, id) = (&*model, id.as_deref());
        InferenceResponse { model: name, version, id, outputs: &outputs, rows: &rows, labels }.encode()
    };
    Ok(reply(written(numbers, deadline, encode).await?))
}

/// Classifies the images of a request. `slots` has one slot for each image. Returns the logits of each image.
async fn classify(
    handler: &ReplicaHandler,
    generation: Arc<Generation>,
    images: Vec<Image>,
    mut slots: TakenSlots,
    deadline: Instant,
    work: &Work,
) -> Result<Vec<Vec<f32>>, RequestError> {
    let classified = images.into_iter().enumerate().map(|(index, image)| {
        let slot = slots.split_one().expect("the request holds a slot for every image");
        let (generation, work) = (Some(generation.clone()), work.clone());
        async move {
            let request = ImageRequest { image, generation, wants_embedding: false, deadline, slot, work };
            let outcome = handler.pipeline.classify(request).await;
            match outcome {
                Ok(classification) => Ok(classification.logits),
                Err(fault) => Err(RequestError { message: format!("image {index}: {}", fault.message), ..fault }),
            }
        }
    });
    // All images enter the pipeline before the first result arrives. Otherwise they could not share a batch.
    try_join_all(classified).await
}

/// The value of the header [`header::INFERENCE_JSON_LENGTH`]; `None` if the header is absent.
///
/// # Errors
/// If the value is malformed (status 400), or the body is compressed (status 415).
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, RequestError> {
    coding::check(headers)?;
    let Some(length) = text(headers, &header::INFERENCE_JSON_LENGTH)? else { return Ok(None) };
    // `parse` alone would accept a sign.
    let number = length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok()).flatten();
    number.map(Some).ok_or_else(|| {
        bad_request(format!("{} is {length:?}; it must be a number of bytes", header::INFERENCE_JSON_LENGTH))
    })
}

/// The HTTP answer for an encoded response.
fn reply(Encoded { body, json_length }: Encoded) -> Reply {
    match json_length {
        None => respond::bytes(StatusCode::OK, "application/json", body),
        Some(length) => {
            let mut reply = respond::bytes(StatusCode::OK, "application/octet-stream", body);
            reply.headers_mut().insert(header::INFERENCE_JSON_LENGTH, HeaderValue::from(length));
            reply
        }
    }
}

/// An error with status 400.
fn bad_request(message: impl Into<String>) -> RequestError {
    RequestError::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_resource_of_the_server_or_of_its_model() {
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
            ("/v2/models/m/versions/2/infer", Err("there is no version \"2\" of m; the only version is \"1\"")),
            ("/v2/models/%6d/infer", Ok(Resource::Infer)),
            ("/v2/models/%zz", Err("there is no model \"%zz\"; this replica has \"m\"")),
            ("/v2/models/x/infer", Err("there is no model \"x\"; this replica has \"m\"")),
            (
                "/v2/models/m/versions",
                Err("no such path: /v2/models/m/versions; send images to POST /v2/models/m/infer"),
            ),
            ("/v2/repository/index", Err("no such path: /v2/repository/index; send images to POST /v2/models/m/infer")),
        ] {
            let found = Resource::of(path, "m").map_err(|fault| (fault.code, fault.message));
            assert_eq!(found, expected.map_err(|message| (Code::NotFound, message.to_owned())), "{path}");
        }
        assert!(!owns("/v20"));
    }

    #[test]
    fn the_length_of_the_json_and_the_encoding_are_read_from_headers() {
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
}

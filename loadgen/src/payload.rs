//! The bodies of requests: an image in one of the formats of servers, a random tensor, or a text with an image in it.

pub mod template;
pub mod tensor;

use crate::images::ImageFile;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use hyper::header::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use template::BodyTemplate;
use tensor::Tensor;

/// The format of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BodyFormat {
    /// The image file itself
    Raw,
    /// multipart/form-data, in a part named image
    Multipart,
    /// {"image": "<base64>"}
    Json,
    /// Open Inference Protocol v2 in JSON; the image file is a string of base64, in a tensor of BYTES
    OipJson,
    /// Open Inference Protocol v2 with a binary tensor of BYTES, which has the image file
    OipBinary,
    /// The text of --body-template
    #[value(skip)]
    Template,
}

/// The text that separates the parts of a multipart body. It is so long that no image file contains it by chance.
const BOUNDARY: &str = "roundhouse-loadgen-5b1f6c0e7a9d4382";

/// The body of a request, and the image's name and label.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The name of the image.
    pub name: String,
    /// Value of the header `Content-Type`.
    pub content_type: HeaderValue,
    /// Value of the header `Inference-Header-Content-Length`; `None` if no binary tensor follows JSON in the body.
    pub json_length: Option<HeaderValue>,
    /// The bytes of the body.
    pub body: Bytes,
    /// The image's label; `None` if it is not known.
    pub label: Option<String>,
}

/// Makes the bodies of requests.
#[derive(Debug, Clone)]
pub enum BodyEncoder {
    /// The image file itself.
    Raw,
    /// A part of `multipart/form-data`.
    Multipart,
    /// The image as base64 in JSON.
    Json,
    /// A request of the Open Inference Protocol. The second field is whether the tensor is binary.
    OpenInference(Tensor, bool),
    /// A text with the image in it, and its media type.
    Template(BodyTemplate, HeaderValue),
}

impl BodyEncoder {
    /// The name of the format, for reports.
    pub fn format(&self) -> BodyFormat {
        match self {
            Self::Raw => BodyFormat::Raw,
            Self::Multipart => BodyFormat::Multipart,
            Self::Json => BodyFormat::Json,
            Self::OpenInference(_, false) => BodyFormat::OipJson,
            Self::OpenInference(_, true) => BodyFormat::OipBinary,
            Self::Template(..) => BodyFormat::Template,
        }
    }

    /// Bodies that carry random numbers in place of an image; `None` if the bodies carry images. There are at most
    /// `count` bodies, and fewer if they are large. The same seed gives the same bodies.
    pub fn random(&self, count: usize, seed: u64) -> Option<Vec<Payload>> {
        match self {
            Self::OpenInference(tensor, is_binary) if !tensor.is_image() => {
                Some(tensor.random(*is_binary, count, seed))
            }
            _ => None,
        }
    }

    /// The body that carries `image`, the image number `index` of the run.
    pub fn encode(&self, image: ImageFile, index: usize) -> Payload {
        let ImageFile { name, file, content_type, label } = image;
        let (content_type, body) = match self {
            Self::Raw => (HeaderValue::from_static(content_type), file),
            Self::Multipart => {
                let head = format!(
                    "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"image\"\r\n\
                     Content-Type: {content_type}\r\n\r\n"
                );
                let tail = format!("\r\n--{BOUNDARY}--\r\n");
                let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
                (
                    HeaderValue::from_str(&media_type)
                        .expect("the boundary has only characters that a header may have"),
                    [head.as_bytes(), &file, tail.as_bytes()].concat().into(),
                )
            }
            Self::Json => {
                let body = format!(r#"{{"image":"{}"}}"#, STANDARD.encode(&file));
                (HeaderValue::from_static("application/json"), body.into())
            }
            Self::OpenInference(tensor, is_binary) => return tensor.encode(name, &file, label, *is_binary),
            Self::Template(template, content_type) => {
                (content_type.clone(), template.fill(&file, label.as_deref(), index).into())
            }
        };
        Payload { name, content_type, json_length: None, body, label }
    }
}

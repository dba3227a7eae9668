//! The bodies of requests: an image file in one of the three formats of the HTTP API. Pure.

use crate::images::ImageFile;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use hyper::header::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The format of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BodyFormat {
    /// The image file itself
    Raw,
    /// multipart/form-data, in a part named image
    Multipart,
    /// {"image": "<base64>"}
    Json,
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
    /// The bytes of the body.
    pub body: Bytes,
    /// The image's label; `None` if it is not known.
    pub label: Option<String>,
}

impl BodyFormat {
    /// The body that carries `image` in this format.
    pub fn encode(self, image: ImageFile) -> Payload {
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
        };
        Payload { name, content_type, body, label }
    }
}

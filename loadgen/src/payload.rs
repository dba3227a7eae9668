//! Pictures → the bodies that carry them.

use crate::images::Picture;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use hyper::header::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a body looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The picture itself
    Raw,
    /// multipart/form-data, in a part named image
    Multipart,
    /// {"image": "<base64>"}
    Json,
}

/// Between the parts; long and odd enough to be in no picture.
const BOUNDARY: &str = "roundhouse-loadgen-5b1f6c0e7a9d4382";

/// A body and what is known of its right answer.
#[derive(Debug, Clone)]
pub struct Payload {
    /// Its media type.
    pub content_type: HeaderValue,
    /// All of it.
    pub body: Bytes,
    /// The label that is right.
    pub label: Option<String>,
}

impl Form {
    /// A picture in this form.
    pub fn wrap(self, picture: Picture) -> Payload {
        let Picture { file, content_type, label } = picture;
        let (content_type, body) = match self {
            Self::Raw => (HeaderValue::from_static(content_type), file),
            Self::Multipart => {
                let head = format!(
                    "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"picture\"\r\n\
                     Content-Type: {content_type}\r\n\r\n"
                );
                let tail = format!("\r\n--{BOUNDARY}--\r\n");
                let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
                (
                    HeaderValue::from_str(&media_type).expect("the boundary is plain text"),
                    [head.as_bytes(), &file, tail.as_bytes()].concat().into(),
                )
            }
            Self::Json => {
                let body = format!(r#"{{"image":"{}"}}"#, STANDARD.encode(&file));
                (HeaderValue::from_static("application/json"), body.into())
            }
        };
        Payload { content_type, body, label }
    }
}

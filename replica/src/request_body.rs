//! Finds the encoded image in a request's body, which may be the image file, a form or JSON. Knows nothing of image
//! formats.

use crate::image_text;
use crate::multipart::{Part, Parts};
use bytes::Bytes;
use percent_encoding::percent_decode;
use serde::Deserialize;
use service::body::Chunks;
use service::coding;
use service::wire::{BodyFormat, Code, RequestError};
use std::borrow::Cow;

/// The name of the field with the image.
const IMAGE: &str = "image";

/// The name of the field with the image in requests of TorchServe's clients. A body may have other fields of this name,
/// so [`IMAGE`] goes before it.
const DATA: &str = "data";

/// The field [`IMAGE`] of a body of `application/json`.
#[derive(Deserialize)]
struct JsonImage<'a> {
    #[serde(borrow)]
    image: Option<JsonText<'a>>,
}

/// The field [`DATA`] of a body of `application/json`. It is read on its own, because beside an image it may have any
/// type.
#[derive(Deserialize)]
struct JsonData<'a> {
    #[serde(borrow)]
    data: Option<JsonText<'a>>,
}

/// A text in JSON. Only a text with escapes is copied.
#[derive(Deserialize)]
struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);

/// The body of a request, before its image is taken out. The decoders do that: a body in base64 of 20 MB takes them 20 ms,
/// in which the thread of the sockets serves the other clients.
#[derive(Debug)]
pub struct RequestBody {
    /// The value of the header `Content-Type`.
    pub content_type: Option<String>,
    /// The bytes of the body.
    pub chunks: Chunks,
}

impl RequestBody {
    /// The encoded image in the body.
    ///
    /// # Errors
    /// Those of [`encoded_image`].
    pub fn image(&self) -> Result<Bytes, RequestError> {
        encoded_image(self.content_type.as_deref(), self.chunks.to_bytes())
    }
}

/// The encoded image in `body`. `content_type` is the value of the header `Content-Type`, which selects the format of
/// the body.
///
/// # Errors
/// If `content_type` names no supported format (status 415), or the body is malformed or contains no image (status
/// 400).
pub fn encoded_image(content_type: Option<&str>, body: Bytes) -> Result<Bytes, RequestError> {
    let image = match BodyFormat::from_content_type(content_type)? {
        BodyFormat::Raw => body,
        BodyFormat::Multipart => image_of_multipart(content_type.unwrap_or_default(), &body)?,
        BodyFormat::Form if is_binary(&body) => body,
        BodyFormat::Form => image_of_form(&body)?,
        BodyFormat::Json => image_of_json(&body)?,
    };
    if image.is_empty() {
        return Err(bad_request("the image is empty; send an image file"));
    }
    Ok(image)
}

/// The image in a body of `multipart/form-data`: the first part that has content and looks like an image, or else the
/// first one with content and the name [`DATA`]. Forms send an empty part for a file that the user has not chosen.
fn image_of_multipart(content_type: &str, body: &Bytes) -> Result<Bytes, RequestError> {
    let (mut fallback, mut has_empty_image) = (None, false);
    for part in Parts::new(content_type, body)? {
        let part = part?;
        if looks_like_image(&part) {
            if !part.content.is_empty() {
                return image_of_part(&part, body);
            }
            has_empty_image = true;
        } else if fallback.is_none() && part.name.as_deref() == Some(DATA.as_bytes()) && !part.content.is_empty() {
            fallback = Some(part);
        }
    }
    match fallback {
        Some(part) => image_of_part(&part, body),
        None if has_empty_image => Ok(Bytes::new()),
        None => Err(bad_request("the multipart body has no part with a file name or the name \"image\"; send one")),
    }
}

/// Whether a part has a file name, the name [`IMAGE`] or the type of an image.
fn looks_like_image(part: &Part<'_>) -> bool {
    part.has_file_name
        || part.name.as_deref() == Some(IMAGE.as_bytes())
        || part.content_type.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"image/"))
}

/// The image file in `part` of `body`. It is copied only if it is encoded as text.
fn image_of_part(part: &Part<'_>, body: &Bytes) -> Result<Bytes, RequestError> {
    let is_one_of = |value: &[u8], names: &[&str]| {
        value.is_empty() || names.iter().any(|name| value.eq_ignore_ascii_case(name.as_bytes()))
    };
    if !is_one_of(part.content_encoding, &["identity"]) {
        return Err(coding::unsupported("Content-Encoding", part.content_encoding));
    }
    let is_base64 = part.transfer_encoding.eq_ignore_ascii_case(b"base64");
    if !is_base64 && !is_one_of(part.transfer_encoding, &["7bit", "8bit", "binary"]) {
        return Err(coding::unsupported("Content-Transfer-Encoding", part.transfer_encoding));
    }
    // A page sends the picture of a canvas as a field with a data URL.
    if is_base64 || image_text::base64_of_data_url(part.content).is_some() {
        return decoded(part.content, "the image in the multipart body cannot be decoded");
    }
    Ok(body.slice_ref(part.content))
}

/// Whether a body begins with bytes that a form cannot have, since a form is ASCII text. `curl --data-binary @FILE`
/// calls the file a form.
fn is_binary(body: &[u8]) -> bool {
    /// A JPEG or PNG file has a byte that is not ASCII at its start. A WebP file has its length in the bytes 4 to 7, and
    /// the last of them is a control character in a file of less than 128 MiB.
    const LOOKED_AT: usize = 8;
    let is_text = |byte: &u8| byte.is_ascii() && (!byte.is_ascii_control() || byte.is_ascii_whitespace());
    !body.iter().take(LOOKED_AT).all(is_text)
}

/// The image in a body of `application/x-www-form-urlencoded`: the first field named [`IMAGE`], or else the first one
/// named [`DATA`].
fn image_of_form(body: &[u8]) -> Result<Bytes, RequestError> {
    let field = |wanted: &str| {
        let pairs = body.split(|&byte| byte == b'&').map(|pair| {
            let equals = memchr::memchr(b'=', pair).unwrap_or(pair.len());
            (&pair[..equals], pair.get(equals + 1..).unwrap_or_default())
        });
        pairs.into_iter().find(|(name, _)| percent_decode(name.trim_ascii()).eq(wanted.bytes()))
    };
    let Some((_, value)) = field(IMAGE).or_else(|| field(DATA)) else {
        return Err(bad_request(
            "the form has no field \"image\"; send image=BASE64, or the image file with Content-Type: image/*",
        ));
    };
    // A plus stands for a space in a form. Base64 has no spaces but has the digit plus, and some clients do not encode
    // it. So every plus is that digit.
    decoded(&percent_decode(value).collect::<Vec<u8>>(), "the field \"image\" of the form cannot be decoded")
}

/// The image in a body of `application/json`: the field [`IMAGE`], or else [`DATA`].
fn image_of_json(body: &[u8]) -> Result<Bytes, RequestError> {
    let wrong_form = |reason: &dyn std::fmt::Display| {
        bad_request(format!("the JSON does not have the form {{\"image\": \"BASE64\"}}: {reason}"))
    };
    // Some programs on Windows begin every file with a byte order mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let JsonImage { image } = serde_json::from_slice(body).map_err(|error| wrong_form(&error))?;
    let text = match image {
        Some(image) => Some(image),
        None => serde_json::from_slice::<JsonData<'_>>(body).map_err(|error| wrong_form(&error))?.data,
    };
    let JsonText(text) = text.ok_or_else(|| wrong_form(&"the field \"image\" is missing"))?;
    decoded(text.as_bytes(), "\"image\" cannot be decoded")
}

/// The bytes that `text` encodes. An error begins with `failure`.
fn decoded(text: &[u8], failure: &str) -> Result<Bytes, RequestError> {
    image_text::decode(text).map(Bytes::from).map_err(|reason| bad_request(format!("{failure}: {reason}")))
}

fn bad_request(message: impl Into<String>) -> RequestError {
    RequestError::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests;

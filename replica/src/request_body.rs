//! Finds the encoded image in a request's body, which may be the image file, multipart or JSON. Knows nothing of image
//! formats.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use service::wire::{BodyFormat, Code, RequestError};
use std::convert::Infallible;

/// The fields of a body of `application/json`.
#[derive(Deserialize)]
struct JsonBody {
    /// The image file in base64.
    image: String,
}

/// The encoded image in `body`. `content_type` is the value of the header `Content-Type`, which selects the format of
/// the body.
///
/// # Errors
/// If `content_type` names no supported format (status 415), or the body is malformed or contains no image (status
/// 400).
pub async fn encoded_image(content_type: Option<&str>, body: Bytes) -> Result<Bytes, RequestError> {
    let image = match BodyFormat::from_content_type(content_type)? {
        BodyFormat::Raw => body,
        BodyFormat::Multipart => first_file(content_type.unwrap_or_default(), body).await?,
        BodyFormat::Json => {
            let parsed: JsonBody = serde_json::from_slice(&body).map_err(|error| {
                bad_request(format!("the JSON does not have the form {{\"image\": \"BASE64\"}}: {error}"))
            })?;
            let decoded = BASE64_STANDARD.decode(parsed.image);
            decoded.map_err(|error| bad_request(format!("\"image\" is not base64: {error}")))?.into()
        }
    };
    if image.is_empty() {
        return Err(bad_request("the image is empty; send an image file"));
    }
    Ok(image)
}

/// The first part of a multipart body that has a file name or is named `image`.
async fn first_file(content_type: &str, body: Bytes) -> Result<Bytes, RequestError> {
    let malformed = |error: multer::Error| bad_request(format!("the multipart body is malformed: {error}"));
    let boundary = multer::parse_boundary(content_type).map_err(malformed)?;
    let stream = futures_util::stream::once(async { Ok::<_, Infallible>(body) });
    let mut parts = multer::Multipart::new(stream, boundary);
    while let Some(part) = parts.next_field().await.map_err(malformed)? {
        if part.file_name().is_some() || part.name() == Some("image") {
            return part.bytes().await.map_err(malformed);
        }
    }
    Err(bad_request("the multipart body has no part with a file name or the name \"image\"; send one"))
}

fn bad_request(message: impl Into<String>) -> RequestError {
    RequestError::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(content_type: &str, body: &str, expected: Result<&str, Code>) {
        let found = encoded_image(Some(content_type), Bytes::copy_from_slice(body.as_bytes())).await;
        let found = found.as_ref().map(|bytes| std::str::from_utf8(bytes).expect("text")).map_err(|fault| fault.code);
        assert_eq!(found, expected, "{content_type} {body:?}");
    }

    #[tokio::test]
    async fn the_image_is_found_in_each_format_of_a_body() {
        check("image/png", "abc", Ok("abc")).await;
        check("application/json", r#"{"image":"YWJj"}"#, Ok("abc")).await;
        let multipart =
            |headers: &str| format!("--B\r\nContent-Disposition: form-data; {headers}\r\n\r\nabc\r\n--B--\r\n");
        let kind = "multipart/form-data; boundary=B";
        check(kind, &multipart("name=\"x\"; filename=\"p.jpg\""), Ok("abc")).await;
        check(kind, &multipart("name=\"image\""), Ok("abc")).await;
        let fields_first = format!(
            "--B\r\nContent-Disposition: form-data; name=\"top\"\r\n\r\n5\r\n{}",
            multipart("name=\"f\"; filename=\"p\"")
        );
        check(kind, &fields_first, Ok("abc")).await;
    }

    #[tokio::test]
    async fn malformed_bodies_and_unknown_content_types_are_refused() {
        let kind = "multipart/form-data; boundary=B";
        for (content_type, body) in [
            ("image/png", ""),
            ("application/json", "{"),
            ("application/json", "[]"),
            ("application/json", r#"{"picture":"YWJj"}"#),
            ("application/json", r#"{"image":"!"}"#),
            ("application/json", r#"{"image":""}"#),
            ("multipart/form-data", "x"),
            (kind, "x"),
            (kind, "--B\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\ncut short"),
            (kind, "--B\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nabc\r\n--B--\r\n"),
        ] {
            check(content_type, body, Err(Code::BadRequest)).await;
        }
        check("text/plain", "x", Err(Code::UnsupportedMediaType)).await;
    }
}

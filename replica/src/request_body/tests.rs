//! Tests of [`super::encoded_image`] with bodies in memory.

use super::*;
use crate::multipart::{MAX_HEADER_BYTES, MAX_PARTS};

/// The `Content-Type` of the tests' multipart bodies.
const MULTIPART: &str = "multipart/form-data; boundary=B";

/// The `Content-Type` of a form whose values are percent-encoded.
const FORM: &str = "application/x-www-form-urlencoded";

fn check(content_type: &str, body: &[u8], expected: Result<&[u8], Code>) {
    let found = encoded_image(Some(content_type), Bytes::copy_from_slice(body));
    let found = found.as_deref().map_err(|fault| fault.code);
    assert_eq!(found, expected, "{content_type} {:?}", String::from_utf8_lossy(body));
}

/// A multipart body with one part that has the header lines `headers`, each with its line break.
fn part(headers: &str) -> String {
    format!("--B\r\n{headers}\r\nabc\r\n--B--\r\n")
}

#[test]
fn the_image_is_found_in_each_format_of_a_body() {
    check("image/png", b"abc", Ok(b"abc"));
    for json in [
        r#"{"image":"YWJj"}"#,
        r#"{"top":{"a":[1]},"image":"YWJj","data":"WFla"}"#,
        r#"{"image":null,"data":"YWJj"}"#,
        r#"{"data":"YWJj"}"#,
        r#"{"image":"YWJj","data":[1,{"a":null}]}"#,
        r#"{"data":7,"image":"YWJj"}"#,
        r#"{"image":"data:image\/png;base64,YWJj"}"#,
        r#"{"image":"YW\nJj\r\n"}"#,
        "\u{feff}{\"image\":\"YWJj\"}",
    ] {
        check("application/json", json.as_bytes(), Ok(b"abc"));
    }
    for form in
        ["image=YWJj", "a=b&image=YWJj&c", "i%6Dage=YW%4Aj", "data=YWJj", "data=x&image=YWJj&image=", "image=YWJj\r\n"]
    {
        check(FORM, form.as_bytes(), Ok(b"abc"));
    }
    check(FORM, b"image=%2b%2F+/%2bA%3D%3D", Ok(b"\xfb\xff\xbf\xf8"));
    check(FORM, b"image=data%3Aimage%2Fpng%3Bbase64%2CYWJj", Ok(b"abc"));
}

#[test]
fn an_image_file_that_is_called_a_form_is_used_as_it_is() {
    for file in [&b"\xff\xd8\xff\xe0&image=YWJj"[..], b"\x89PNG\r\n", b"RIFF\x24\xa0\x01\x00WEBPVP8 "] {
        check(FORM, file, Ok(file));
    }
}

#[test]
fn the_part_with_the_image_is_found_by_its_headers() {
    for headers in [
        "Content-Disposition: form-data; name=\"x\"; filename=\"p.jpg\"\r\n",
        "Content-Disposition: form-data; name=\"image\"\r\n",
        "content-disposition:form-data;NAME=image\r\n",
        "Content-Disposition: form-data; name*=utf-8''im%61ge\r\n",
        "Content-Disposition: attachment; filename*=utf-8''%C3%A9.jpg\r\n",
        "Content-Disposition: form-data; filename*0=\"p\"; filename*1=\".jpg\"\r\n",
        "Content-Disposition: form-data; name=\"data\"\r\n",
        "Content-Disposition: form-data\r\nContent-Type: image/png\r\n",
        "Content-Type: IMAGE/jpeg\r\n",
        "Content-Disposition: form-data;\r\n name=\"image\"\r\nX-Other: a\r\n",
        "Content-Disposition: form-data; name=\"image\"\r\nContent-Transfer-Encoding: Binary\r\n",
        "Content-Disposition: form-data; name=\"image\"\r\nContent-Encoding: identity\r\n",
    ] {
        check(MULTIPART, part(headers).as_bytes(), Ok(b"abc"));
    }
}

#[test]
fn the_first_part_with_an_image_is_used_and_an_empty_file_is_passed_over() {
    let form = |parts: &[(&str, &str)]| {
        let part = |(parameters, content): &(&str, &str)| {
            format!("--B\r\nContent-Disposition: form-data; {parameters}\r\n\r\n{content}\r\n")
        };
        parts.iter().map(part).collect::<String>() + "--B--"
    };
    for (parts, expected) in [
        (&[("name=top", "5"), ("name=f; filename=p", "abc")][..], Ok(&b"abc"[..])),
        (&[("name=f; filename=\"\"", ""), ("name=f; filename=p", "abc")], Ok(b"abc")),
        (&[("name=image", ""), ("name=image; filename=p", "abc")], Ok(b"abc")),
        (&[("name=f; filename=p", "abc"), ("name=image", "xyz")], Ok(b"abc")),
        (&[("name=data", "{}"), ("name=image", "abc")], Ok(b"abc")),
        (&[("name=data", "abc"), ("name=image", "")], Ok(b"abc")),
        (&[("name=image", "data:image/png;base64,YWJj")], Ok(b"abc")),
        (&[("name=image", ""), ("name=f; filename=p", "")], Err(Code::BadRequest)),
        (&[("name=top", "5")], Err(Code::BadRequest)),
        (&[], Err(Code::BadRequest)),
    ] {
        check(MULTIPART, form(parts).as_bytes(), expected);
    }
}

#[test]
fn the_lines_around_the_parts_are_read_leniently() {
    let headers = "Content-Disposition: form-data; name=image\r\n\r\n";
    for (content_type, body, image) in [
        (MULTIPART, format!("\r\n--B\r\n{headers}abc\r\n--B--"), &b"abc"[..]),
        (MULTIPART, format!("a --B\r\n--Bx\r\n\r\n--B \t\r\n{headers}abc\r\n--B--\r\nafter --B"), b"abc"),
        (MULTIPART, format!("--B\r\n{headers}\r\n--Bx\r\n--\r\n\r\n--B--"), b"\r\n--Bx\r\n--\r\n"),
        (MULTIPART, format!("--B\r\n{headers}a\n--B\nb\r\n--B--"), b"a\n--B\nb"),
        (MULTIPART, format!("--B\r\n{headers}--B--"), b""),
        (MULTIPART, format!("--B\n{}abc\r\n--B--", headers.replace('\r', "")), b""),
        (MULTIPART, format!("--B\n{}abc\n--B--\n", headers.replace('\r', "")), b"abc"),
        (
            "multipart/form-data ; charset=utf-8; BOUNDARY=\"a \\\"b\"",
            format!("--a \"b\r\n{headers}abc\r\n--a \"b--"),
            b"abc",
        ),
        ("multipart/form-data;boundary==_?/:'", format!("--=_?/:'\r\n{headers}abc\r\n--=_?/:'--"), b"abc"),
    ] {
        let expected = match image {
            b"" if body.contains("\n\nabc") => Ok(&b"abc\r"[..]),
            b"" => Err(Code::BadRequest),
            _ => Ok(image),
        };
        check(content_type, body.as_bytes(), expected);
    }
}

#[test]
fn a_part_in_base64_is_decoded_and_other_codings_are_refused() {
    let coded = |name: &str, coding: &str, content: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=image\r\n{name}: {coding}\r\n\r\n{content}\r\n--B--")
    };
    let transfer = "Content-Transfer-Encoding";
    check(MULTIPART, coded(transfer, "BASE64", "YW\r\nJj\r\n").as_bytes(), Ok(b"abc"));
    check(MULTIPART, coded(transfer, "base64", "YW!").as_bytes(), Err(Code::BadRequest));
    for (name, coding) in [(transfer, "quoted-printable"), ("Content-Encoding", "gzip")] {
        let body = coded(name, coding, "abc").into();
        let fault = encoded_image(Some(MULTIPART), body).expect_err("the coding is not supported");
        assert_eq!(fault.code, Code::UnsupportedMediaType);
        assert!(fault.message.starts_with(&format!("{name} {coding:?} is not supported")), "{}", fault.message);
    }
}

#[test]
fn the_image_of_a_multipart_body_is_not_copied() {
    let body = Bytes::from(part("Content-Disposition: form-data; name=image\r\n"));
    let image = encoded_image(Some(MULTIPART), body.clone()).expect("there is an image");
    assert!(body.as_ptr_range().contains(&image.as_ptr()));
}

#[test]
fn the_parts_of_a_body_and_their_headers_are_bounded() {
    let field = "--B\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n";
    let with_fields = |count| field.repeat(count) + &part("Content-Disposition: form-data; name=image\r\n");
    check(MULTIPART, with_fields(MAX_PARTS - 1).as_bytes(), Ok(b"abc"));
    check(MULTIPART, with_fields(MAX_PARTS).as_bytes(), Err(Code::TooLarge));
    let with_header = |length| {
        let name = "Content-Disposition: form-data; name=image\r\nX: ";
        part(&format!("{name}{}\r\n", "x".repeat(length - name.len() - "\r\n\r\n".len())))
    };
    check(MULTIPART, with_header(MAX_HEADER_BYTES).as_bytes(), Ok(b"abc"));
    check(MULTIPART, with_header(MAX_HEADER_BYTES + 1).as_bytes(), Err(Code::TooLarge));
    check(MULTIPART, with_header(MAX_HEADER_BYTES * 2).as_bytes(), Err(Code::TooLarge));
}

#[test]
fn malformed_bodies_and_unknown_content_types_are_refused() {
    for (content_type, body) in [
        ("image/png", ""),
        ("application/json", "{"),
        ("application/json", "[]"),
        ("application/json", r#"{"picture":"YWJj"}"#),
        ("application/json", r#"{"image":"!"}"#),
        ("application/json", r#"{"image":""}"#),
        ("application/json", r#"{"image":7}"#),
        ("application/json", r#"{"image":7,"data":"YWJj"}"#),
        ("application/json", r#"{"data":[1]}"#),
        ("application/json", r#"{"image":"YWJj","data":[1}"#),
        ("application/json", r#"{"image":"YWJj","image":"YWJj"}"#),
        ("application/json", r#"{"instances":[{"b64":"YWJj"}]}"#),
        (FORM, ""),
        (FORM, "image"),
        (FORM, "image="),
        (FORM, "picture=YWJj"),
        (FORM, "image=%"),
        (FORM, "YWJj"),
        ("multipart/form-data", "x"),
        ("multipart/form-data; boundary=", "--\r\n"),
        (MULTIPART, ""),
        (MULTIPART, "x"),
        (MULTIPART, "--B--"),
        (MULTIPART, "--B\r\n"),
        (MULTIPART, "--B\r\n\r\n"),
        (MULTIPART, "--B\r\nContent-Disposition: form-data; name=\"image\"\r\n"),
        (MULTIPART, "--B\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\ncut short"),
        (MULTIPART, "--B\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\ncut short\r\n--B"),
        (MULTIPART, "--B\r\nno colon\r\n\r\nabc\r\n--B--\r\n"),
        (MULTIPART, "--B\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nabc\r\n--B--\r\n"),
    ] {
        check(content_type, body.as_bytes(), Err(Code::BadRequest));
    }
    check("text/plain", b"x", Err(Code::UnsupportedMediaType));
}

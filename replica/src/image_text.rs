//! An image file that was sent as text: base64 in the notations that clients use, or a data URL. Knows nothing of the
//! format of a body.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Decodes the alphabet of RFC 4648, section 4, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest start of a data URL: `data:`, a media type and `;base64,`.
const MAX_DATA_URL_START: usize = 256;

/// The bytes that `text` encodes. The text is base64 with the alphabet of RFC 4648, section 4 or 5, with or without
/// padding, and may have white space anywhere, as in MIME. A data URL such as `data:image/png;base64,…` is decoded, too.
///
/// # Errors
/// If the text is neither, a message says why.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = text.trim_ascii();
    let text = base64_of_data_url(text).unwrap_or(text);
    if is_data_url(text) {
        return Err("it is a data URL without base64; send data:image/png;base64,…".to_owned());
    }
    // Most clients send padded base64 of the usual alphabet in one line, which needs no copy of the text.
    if let Ok(decoded) = BASE64.decode(text) {
        return Ok(decoded);
    }
    let mut usual: Vec<u8> = text.iter().filter(|byte| !byte.is_ascii_whitespace()).map(usual_digit).collect();
    let length = usual.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    usual.truncate(length);
    BASE64.decode(usual).map_err(|error| format!("it is not base64: {error}"))
}

/// The base64 in a data URL (RFC 2397); `None` if `text` is no such URL.
pub fn base64_of_data_url(text: &[u8]) -> Option<&[u8]> {
    if !is_data_url(text) {
        return None;
    }
    let comma = memchr::memchr(b',', &text[..text.len().min(MAX_DATA_URL_START)])?;
    let (start, base64) = (&text[..comma], &text[comma + 1..]);
    let marker = start.len().checked_sub(b";base64".len())?;
    start[marker..].eq_ignore_ascii_case(b";base64").then_some(base64)
}

fn is_data_url(text: &[u8]) -> bool {
    text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"data:"))
}

/// The digit of the usual alphabet for one of the alphabet that is safe in URLs.
fn usual_digit(digit: &u8) -> u8 {
    match digit {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base64_is_read_in_every_notation_that_clients_use() {
        let bytes = b"\xfb\xff\xfe\x00!";
        for (text, expected) in [
            ("+//+ACE=", Some(&bytes[..])),
            ("-__-ACE=", Some(bytes)),
            ("-_/+ACE", Some(bytes)),
            ("+//+ACE==", Some(bytes)),
            ("+//+\r\nACE=\r\n", Some(bytes)),
            (" +/ /+\tACE=", Some(bytes)),
            ("data:image/png;base64,+//+ACE=", Some(bytes)),
            ("DATA:image/png;charset=x;BASE64,-__-ACE", Some(bytes)),
            ("data:;base64,+//+ACE=", Some(bytes)),
            ("", Some(b"")),
            ("data:image/png,abc", None),
            ("data:image/png;base64", None),
            ("+//+ACE!", None),
            ("+//+A", None),
            ("+/=/+ACE", None),
            ("é", None),
        ] {
            assert_eq!(decode(text.as_bytes()).ok().as_deref(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_are_decoded_from_every_notation(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            width in 1..80_usize,
            (is_url_safe, is_padded) in any::<(bool, bool)>(),
        ) {
            use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
            let text = match (is_url_safe, is_padded) {
                (false, true) => BASE64_STANDARD.encode(&bytes),
                (false, false) => BASE64_STANDARD_NO_PAD.encode(&bytes),
                (true, true) => BASE64_URL_SAFE.encode(&bytes),
                (true, false) => BASE64_URL_SAFE_NO_PAD.encode(&bytes),
            };
            let lines: Vec<&str> = text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
            prop_assert_eq!(decode(lines.join("\r\n").as_bytes()), Ok(bytes.clone()));
            prop_assert_eq!(decode(format!("data:image/jpeg;base64,{text}").as_bytes()), Ok(bytes));
        }
    }
}

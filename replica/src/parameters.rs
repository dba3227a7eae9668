//! The parameters of a header value such as `form-data; name="image"; filename="cat.png"`. Knows nothing of particular
//! headers.

use std::borrow::Cow;

/// One parameter of a header value. Neither part needs to be UTF-8: some browsers send file names in other character
/// sets.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// The name as it was sent. Names have no case.
    pub name: &'a [u8],
    /// The value without quotes and escapes.
    pub value: Cow<'a, [u8]>,
}

/// The parameters after the first semicolon of `value`, in their order. A value may be quoted or not, and may have
/// spaces and line breaks around it, because some clients fold long headers.
pub fn parameters(value: &[u8]) -> Parameters<'_> {
    Parameters { rest: split_at_byte(value, b';').1 }
}

/// The iterator of [`parameters`].
#[derive(Debug)]
pub struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Parameter<'a>;

    fn next(&mut self) -> Option<Parameter<'a>> {
        loop {
            let rest = self.rest.trim_ascii_start();
            if rest.is_empty() {
                return None;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
            let name = rest[..end].trim_ascii_end();
            if rest.get(end) != Some(&b'=') {
                // A parameter without a value means nothing.
                self.rest = rest.get(end + 1..).unwrap_or_default();
                continue;
            }
            let value = rest[end + 1..].trim_ascii_start();
            let value = if let Some(quoted) = value.strip_prefix(b"\"") {
                let (text, after) = unquote(quoted);
                self.rest = split_at_byte(after, b';').1;
                text
            } else {
                let (text, after) = split_at_byte(value, b';');
                self.rest = after;
                Cow::Borrowed(text.trim_ascii_end())
            };
            return Some(Parameter { name, value });
        }
    }
}

/// The text up to the closing quote, and the bytes after that quote. A backslash escapes a quote or a backslash. Before
/// any other character it stands for itself, because some browsers send Windows paths. Without a closing quote the text
/// goes to the end.
fn unquote(quoted: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let mut text = Cow::Borrowed(&quoted[..0]);
    let mut start = 0;
    let mut at = 0;
    while at < quoted.len() && quoted[at] != b'"' {
        if quoted[at] == b'\\' && matches!(quoted.get(at + 1), Some(b'"' | b'\\')) {
            text.to_mut().extend_from_slice(&quoted[start..at]);
            start = at + 1;
            at += 1;
        }
        at += 1;
    }
    if start == 0 {
        text = Cow::Borrowed(&quoted[..at]);
    } else {
        text.to_mut().extend_from_slice(&quoted[start..at]);
    }
    (text, quoted.get(at + 1..).unwrap_or_default())
}

/// The bytes before and after the first `byte`. Without it, nothing is after it.
fn split_at_byte(bytes: &[u8], byte: u8) -> (&[u8], &[u8]) {
    let end = memchr::memchr(byte, bytes).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_read_in_every_notation_that_clients_use() {
        for (value, expected) in [
            ("form-data", &[][..]),
            ("form-data; name=\"image\"; filename=\"a.png\"", &[("name", "image"), ("filename", "a.png")]),
            ("form-data;name=image;filename=a.png", &[("name", "image"), ("filename", "a.png")]),
            ("form-data ; NAME = \"image\" ; FileName= a b.png ", &[("NAME", "image"), ("FileName", "a b.png")]),
            ("form-data; filename=\"a;b=\\\"c\\\".png\"; name=x", &[("filename", "a;b=\"c\".png"), ("name", "x")]),
            ("form-data; filename=\"C:\\new\\a.png\"; name=x", &[("filename", "C:\\new\\a.png"), ("name", "x")]),
            ("form-data; filename=\"a\\\\\"; name=x", &[("filename", "a\\"), ("name", "x")]),
            ("form-data; name=\"\"; filename*=UTF-8''%C3%A9", &[("name", ""), ("filename*", "UTF-8''%C3%A9")]),
            ("form-data;\r\n\tname=\"image\";\r\n filename=é", &[("name", "image"), ("filename", "é")]),
            ("form-data; alone; ; name=\"x\"y; =z", &[("name", "x"), ("", "z")]),
            ("form-data; name=\"not closed; a=b", &[("name", "not closed; a=b")]),
        ] {
            let found: Vec<_> = parameters(value.as_bytes())
                .map(|Parameter { name, value }| {
                    (String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(&value).into_owned())
                })
                .collect();
            let expected: Vec<_> = expected.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(found, expected, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_value_is_read_as_it_was_written(value in "[ -~]{0,20}", other in "[ -~]{0,20}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("form-data; name=\"{}\"; filename=\"{}\"", quote(&value), quote(&other));
            let found: Vec<_> = parameters(header.as_bytes()).map(|found| found.value.into_owned()).collect();
            prop_assert_eq!(found, [value.into_bytes(), other.into_bytes()]);
        }

        #[test]
        fn any_bytes_are_read_to_their_end(value in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(parameters(&value).count() <= value.len());
        }
    }
}

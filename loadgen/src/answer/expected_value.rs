//! Values that an answer must have: a place in its JSON, and the value there.

use serde_json::Value;
use std::str::FromStr;

/// The text in an expected value that stands for the image's label.
const LABEL: &str = "{{label}}";

/// A value that the JSON of an answer must have at a place.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedValue {
    /// The place, as a JSON Pointer (RFC 6901).
    pointer: String,
    value: Value,
}

impl FromStr for ExpectedValue {
    type Err = String;

    /// Parses `POINTER=VALUE`. The value is JSON, or else a string.
    fn from_str(text: &str) -> Result<Self, String> {
        let (pointer, value) =
            text.split_once('=').ok_or("write POINTER=VALUE, as in /outputs/0/label=cat or /ok=true")?;
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(format!("the pointer {pointer:?} must begin with /, as in /outputs/0/label=cat"));
        }
        let mut escapes = pointer.split('~').skip(1);
        if escapes.any(|escape| !escape.starts_with(['0', '1'])) {
            return Err(format!("the pointer {pointer:?} has a ~ that is not a part of ~0 (for ~) or ~1 (for /)"));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        if !value.is_string() && value.to_string().contains(LABEL) {
            return Err(format!("{LABEL} can only stand in a string, as in /label={LABEL}"));
        }
        Ok(Self { pointer: pointer.to_owned(), value })
    }
}

impl ExpectedValue {
    /// Whether `found` is the expected value; `None` if that depends on the label, which is not known.
    fn is(&self, found: &Value, label: Option<&str>) -> Option<bool> {
        match (&self.value, found) {
            (Value::String(expected), _) if expected.contains(LABEL) => {
                label.map(|label| is_text(found, &expected.replace(LABEL, label)))
            }
            // 1 and 1.0 are different values for serde_json.
            (Value::Number(expected), Value::Number(found)) => Some(expected.as_f64() == found.as_f64()),
            (expected, found) => Some(expected == found),
        }
    }
}

/// Whether `found` is this text, or the number that the text states. Labels are texts, and servers name classes by numbers.
fn is_text(found: &Value, text: &str) -> bool {
    match found {
        Value::Number(found) => text.parse().is_ok_and(|number: f64| found.as_f64() == Some(number)),
        found => found.as_str() == Some(text),
    }
}

/// Whether an answer with this body has all expected values. The outer `None` says that the body is no JSON or lacks
/// one of the places, the inner one that the image's label, on which it depends, is not known.
pub(super) fn judge(expected: &[ExpectedValue], body: &[u8], label: Option<&str>) -> Option<Option<bool>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let mut right = Some(true);
    for value in expected {
        match value.is(answer.pointer(&value.pointer)?, label) {
            Some(true) => {}
            Some(false) => right = Some(false),
            None if right == Some(true) => right = None,
            None => {}
        }
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(expected: &[&str], body: &str, label: Option<&str>) -> Option<Option<bool>> {
        let expected: Vec<ExpectedValue> = expected.iter().map(|text| text.parse().expect("good")).collect();
        judge(&expected, body.as_bytes(), label)
    }

    #[test]
    fn values_are_compared_as_json_and_missing_places_are_failures() {
        let body = r#"{"ok":true,"n":1.0,"list":[{"label":"cat"}],"a/b":{"~":null},"text":"7"}"#;
        for (expected, right) in [
            (&["/ok=true"][..], Some(Some(true))),
            (&["/ok=false"], Some(Some(false))),
            (&["/ok=\"true\""], Some(Some(false))),
            (&["/n=1"], Some(Some(true))),
            (&["/list/0/label=cat"], Some(Some(true))),
            (&["/list/0/label=\"cat\""], Some(Some(true))),
            (&["/list/0/label={{label}}"], Some(Some(true))),
            (&["/list/0={\"label\":\"cat\"}"], Some(Some(true))),
            (&["/a~1b/~0=null"], Some(Some(true))),
            (&["/text=7"], Some(Some(false))),
            (&["/text=\"7\""], Some(Some(true))),
            (&["/ok=true", "/n=2"], Some(Some(false))),
            (&["/ok=true", "/gone=2"], None),
            (&["/list/1=2"], None),
        ] {
            assert_eq!(judged(expected, body, Some("cat")), right, "{expected:?}");
        }
        assert_eq!(judged(&["/list/0/label={{label}}"], body, Some("dog")), Some(Some(false)));
        assert_eq!(judged(&["/list/0/label={{label}}"], body, None), Some(None));
        assert_eq!(judged(&["/list/0/label={{label}}", "/ok=false"], body, None), Some(Some(false)));
        assert_eq!(judged(&["=7"], "7", None), Some(Some(true)));
        for (label, right) in [("281", true), ("282", false), ("cat", false)] {
            assert_eq!(judged(&["/id={{label}}"], r#"{"id":281}"#, Some(label)), Some(Some(right)), "{label}");
        }
        for body in ["", "<html>", "{\"ok\":tru", &"[".repeat(100_000)] {
            assert_eq!(judged(&["=1"], body, None), None);
        }
    }

    #[test]
    fn a_malformed_expectation_is_refused() {
        for (bad, word) in [
            ("", "POINTER=VALUE"),
            ("/ok", "POINTER=VALUE"),
            ("ok=true", "must begin with /"),
            ("/a~b=1", "~0"),
            ("/a~=1", "~0"),
            (r#"/a=["{{label}}"]"#, "in a string"),
        ] {
            let error = bad.parse::<ExpectedValue>().expect_err(bad);
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}

//! A text with placeholders, which becomes the body of each request. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The image file as base64.
    Image,
    /// The image's label, or nothing if it is not known.
    Label,
    /// The number of the image.
    Index,
}

/// The placeholders, with their names.
const PLACEHOLDERS: [(&str, Part); 3] = [("image_base64", Part::Image), ("label", Part::Label), ("index", Part::Index)];

/// The text of `--body-template`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyTemplate {
    parts: Vec<Part>,
    /// Whether labels are written as in a string of JSON.
    is_json: bool,
}

/// The place of an unknown placeholder.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}, column {column}: there is no placeholder {{{{{name}}}}}; the placeholders are {{{{image_base64}}}}, \
     {{{{label}}}} and {{{{index}}}}"
)]
pub struct UnknownPlaceholder {
    line: usize,
    column: usize,
    name: String,
}

impl BodyTemplate {
    /// Parses a template. `is_json` says that labels stand in strings of JSON, so their quotation marks are escaped.
    /// Two braces that do not enclose a name are a part of the text.
    ///
    /// # Errors
    /// If a placeholder has another name than the ones that exist.
    pub fn parse(text: &str, is_json: bool) -> Result<Self, UnknownPlaceholder> {
        let mut parts = Vec::new();
        // The text since the last placeholder, and the place from which to search the next one.
        let (mut start, mut from) = (0, 0);
        while let Some(open) = text[from..].find("{{").map(|index| from + index) {
            let Some(name) = name_at(&text[open + 2..]) else {
                from = open + 1;
                continue;
            };
            let Some((_, part)) = PLACEHOLDERS.iter().find(|(known, _)| *known == name.trim()) else {
                let before = &text[..open];
                let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
                return Err(UnknownPlaceholder {
                    line: before.matches('\n').count() + 1,
                    column: before[line_start..].chars().count() + 1,
                    name: name.to_owned(),
                });
            };
            parts.push(Part::Text(text[start..open].to_owned()));
            parts.push(part.clone());
            start = open + 2 + name.len() + 2;
            from = start;
        }
        parts.push(Part::Text(text[start..].to_owned()));
        Ok(Self { parts, is_json })
    }

    /// The text with the image `file`, its label and its number in place of the placeholders.
    pub fn fill(&self, file: &[u8], label: Option<&str>, index: usize) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Image => STANDARD.encode_string(file, &mut text),
                Part::Label if self.is_json => {
                    let quoted = serde_json::Value::from(label.unwrap_or_default()).to_string();
                    text.push_str(&quoted[1..quoted.len() - 1]);
                }
                Part::Label => text.push_str(label.unwrap_or_default()),
                Part::Index => text.push_str(&index.to_string()),
            }
        }
        text
    }
}

/// The name at the beginning of `text`, up to the two braces that end a placeholder; `None` if there is none.
fn name_at(text: &str) -> Option<&str> {
    let is_part = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | ' ');
    let length = text.find(|character| !is_part(character))?;
    let (name, rest) = text.split_at(length);
    (rest.starts_with("}}") && !name.trim().is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_the_rest_is_unchanged() {
        let filled = |text: &str, label| BodyTemplate::parse(text, true).expect("good").fill(b"abcd", label, 7);
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{{image_base64}}", "YWJjZA=="),
            (
                r#"{"a":"{{image_base64}}","b":{{index}},"c":"{{ label }}"}"#,
                r#"{"a":"YWJjZA==","b":7,"c":"a \"cat\""}"#,
            ),
            ("{{index}}{{index}}", "77"),
            ("{{{index}}}", "{7}"),
            ("{{ {\"a\": 1} }}", "{{ {\"a\": 1} }}"),
            ("{{index", "{{index"),
            ("{{}} }} {", "{{}} }} {"),
            ("ä{{index}}ö", "ä7ö"),
        ] {
            assert_eq!(filled(text, Some("a \"cat\"")), expected, "{text}");
        }
        assert_eq!(filled("[{{label}}]", None), "[]");
        let plain = BodyTemplate::parse("<{{label}}>", false).expect("good");
        assert_eq!(plain.fill(b"", Some("a \"cat\""), 0), "<a \"cat\">");
    }

    #[test]
    fn an_unknown_placeholder_has_a_line_and_a_column() {
        for (text, line, column) in [
            ("{{picture}}", 1, 1),
            ("{{image}}", 1, 1),
            ("a\nbä {{picture}}", 2, 4),
            ("{{index}} {{picture}}", 1, 11),
            ("{{{{picture}}", 1, 3),
        ] {
            let error = BodyTemplate::parse(text, true).expect_err(text);
            assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
            assert!(
                error.to_string().contains("placeholders are {{image_base64}}, {{label}} and {{index}}"),
                "{error}"
            );
        }
    }
}

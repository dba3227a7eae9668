//! The text of a token file: one token in each line, with the name, the share and the rate of its tenant. Pure. No
//! error contains a token.
//!
//! ```text
//! # TOKEN [name=NAME] [share=N] [rate=N/s]
//! 5f0c7b6a3e294817 name=mobile share=2
//! 9d1f0c7b6a3e2948 name=mobile share=2
//! 17a3c5d9e0b24f68 name=batch rate=50/s
//! ```

use crate::fair::MAX_SHARE;
use std::collections::HashMap;

/// The largest number of tokens in a file.
pub const MAX_TOKENS: usize = 1000;

/// The longest name of a tenant, in bytes. It is the value of a label of metrics.
const MAX_NAME: usize = 64;

/// The lowest and the highest rate that can be set, in requests per second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1e6;

/// One token and the tenant that it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLine {
    /// The secret.
    pub token: Vec<u8>,
    /// The name of the tenant. Several tokens may have one name, as while a token is replaced. A token without a name is
    /// the only one of the tenant `token-N`, where N counts the tokens of the file from 1.
    pub name: String,
    /// The share of the tenant, 1 to [`MAX_SHARE`]; 1 by default.
    pub share: u32,
    /// The largest rate of the tenant, in requests per second; `None` if it has no limit.
    pub rate: Option<f64>,
}

/// The reason for which a token file cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The file has no token, so no client could send a request.
    #[error("the token file has no token; write one token in each line")]
    Empty,
    /// The file has more than [`MAX_TOKENS`] tokens.
    #[error("the token file has over {MAX_TOKENS} tokens")]
    TooMany,
    /// A line cannot be used.
    #[error("line {line} of the token file: {reason}")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The tokens in the text of a file, in its order. Empty lines and lines that begin with `#` mean nothing.
///
/// # Errors
/// If there is no token, there are too many, or a line is malformed. The first such line is named.
pub fn parse(content: &[u8]) -> Result<Vec<TokenLine>, Malformed> {
    let mut tokens: Vec<TokenLine> = Vec::new();
    let mut line_of_token = HashMap::new();
    let mut line_of_name = HashMap::new();
    for (line, text) in (1..).zip(content.split(|&byte| byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        if tokens.len() == MAX_TOKENS {
            return Err(Malformed::TooMany);
        }
        let malformed = |reason: String| Malformed::Line { line, reason };
        let token = parse_line(text, tokens.len() + 1).map_err(malformed)?;
        if let Some(first) = line_of_token.insert(token.token.clone(), line) {
            return Err(malformed(format!("it repeats the token of line {first}")));
        }
        let (first, index) = *line_of_name.entry(token.name.clone()).or_insert((line, tokens.len()));
        let same = tokens.get(index).unwrap_or(&token);
        if (same.share, same.rate) != (token.share, token.rate) {
            let reason = format!("the tenant {:?} has another share or rate in line {first}", token.name);
            return Err(malformed(reason));
        }
        tokens.push(token);
    }
    if tokens.is_empty() { Err(Malformed::Empty) } else { Ok(tokens) }
}

/// Reads one line. `number` counts the tokens of the file.
fn parse_line(text: &[u8], number: usize) -> Result<TokenLine, String> {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let token = words.next().expect("the line is not empty").to_vec();
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err("the token has other characters than visible ASCII".to_owned());
    }
    let (mut name, mut share, mut rate) = (None, None, None);
    for word in words {
        let unknown = || {
            // The word is not repeated, because it may be a second token.
            let form = "TOKEN [name=NAME] [share=N] [rate=N/s], and each token in a line of its own";
            format!("a word after the token is none of name=, share= and rate=; write {form}")
        };
        let (key, value) = std::str::from_utf8(word).ok().and_then(|word| word.split_once('=')).ok_or_else(unknown)?;
        let is_repeated = match key {
            "name" => name.replace(parse_name(value)?).is_some(),
            "share" => share.replace(parse_share(value)?).is_some(),
            "rate" => rate.replace(parse_rate(value)?).is_some(),
            _ => return Err(unknown()),
        };
        if is_repeated {
            return Err(format!("{key} is set twice"));
        }
    }
    let name = name.unwrap_or_else(|| format!("token-{number}"));
    Ok(TokenLine { token, name, share: share.unwrap_or(1), rate })
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_valid = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_name);
    is_valid.then(|| text.to_owned()).ok_or_else(|| {
        format!("name is {text:?}; it must be 1 to {MAX_NAME} letters, digits, hyphens, underscores and points")
    })
}

fn parse_share(text: &str) -> Result<u32, String> {
    let share = service::wire::number(text).and_then(|share| u32::try_from(share).ok());
    share
        .filter(|share| (1..=MAX_SHARE).contains(share))
        .ok_or_else(|| format!("share is {text:?}; it must be a whole number from 1 to {MAX_SHARE}"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    rate.filter(|rate| RATES.contains(rate)).ok_or_else(|| {
        let (lowest, highest) = (RATES.start(), RATES.end());
        format!(
            "rate is {text:?}; it must be a number of requests per second, such as 50/s, from {lowest} to {highest}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(token: &str, name: &str, share: u32, rate: Option<f64>) -> TokenLine {
        TokenLine { token: token.into(), name: name.into(), share, rate }
    }

    #[test]
    fn a_file_has_one_token_in_each_line() {
        for (text, expected) in [
            ("s3cret", vec![line("s3cret", "token-1", 1, None)]),
            ("s3cret\r\n", vec![line("s3cret", "token-1", 1, None)]),
            ("\n# old and new\n one \n\ntwo\n", vec![line("one", "token-1", 1, None), line("two", "token-2", 1, None)]),
            (
                "a=b= rate=0.5/s name=mobile\tshare=3\nx share=3 name=mobile rate=0.5/s\ny name=b",
                vec![line("a=b=", "mobile", 3, Some(0.5)), line("x", "mobile", 3, Some(0.5)), line("y", "b", 1, None)],
            ),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn a_malformed_line_is_named_and_no_token_is_told() {
        for (text, words) in [
            ("", "no token"),
            ("\n# s3cret\n", "no token"),
            ("ok\ns3cret s3cret2\n", "line 2 of the token file: a word after the token"),
            ("s3cret share", "line 1 of the token file: a word after the token"),
            ("s3cret Share=2", "a word after the token"),
            ("s3cr\u{e9}t", "line 1 of the token file: the token has other characters"),
            ("s3cret name=", "name is \"\""),
            ("s3cret name=a/b", "name is \"a/b\""),
            ("s3cret share=0", "share is \"0\""),
            ("s3cret share=1001", "share is \"1001\""),
            ("s3cret share=+1", "share is \"+1\""),
            ("s3cret share=1.5", "share is \"1.5\""),
            ("s3cret share=1 share=1", "share is set twice"),
            ("s3cret rate=50", "rate is \"50\""),
            ("s3cret rate=0/s", "rate is \"0/s\""),
            ("s3cret rate=-1/s", "rate is \"-1/s\""),
            ("s3cret rate=inf/s", "rate is \"inf/s\""),
            ("s3cret rate=NaN/s", "rate is \"NaN/s\""),
            ("s3cret\n\ns3cret name=x", "line 3 of the token file: it repeats the token of line 1"),
            ("s3cret name=x\ns3cret2 name=x share=2", "line 2 of the token file: the tenant \"x\" has another share"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(words) && !error.contains("s3cr"), "{text:?}: {error}");
        }
        let long_name = format!("s3cret name={}", "x".repeat(MAX_NAME + 1));
        assert!(parse(long_name.as_bytes()).is_err());
    }

    #[test]
    fn the_number_of_tokens_is_bounded() {
        let file = |count: usize| (0..count).map(|number| format!("s{number}\n")).collect::<String>();
        assert_eq!(parse(file(MAX_TOKENS).as_bytes()).map(|tokens| tokens.len()), Ok(MAX_TOKENS));
        assert_eq!(parse(file(MAX_TOKENS + 1).as_bytes()), Err(Malformed::TooMany));
    }
}

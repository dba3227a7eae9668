//! Selectors of labels, as requests to the API server have them: `app=shop,tier in (front,back),!canary`. Pure. The cost
//! of parsing and matching is proportional to the length of the text.

use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::str::FromStr;

/// The most characters of a selector that an error message quotes.
const QUOTED: usize = 20;

/// The requirements that labels must all fulfil. Without requirements, all labels do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

/// A requirement on the label `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Exists,
    IsAbsent,
    /// The label exists, and has one of these values.
    In(Vec<String>),
    /// The label does not exist, or has none of these values.
    NotIn(Vec<String>),
}

/// The reason why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text lacks a part.
    #[error("the label selector needs {expected} in place of {found:?}; write it like a=b, a!=b, a in (b,c) or !a")]
    Expected {
        /// The part that is missing.
        expected: &'static str,
        /// The beginning of the text from the place of the missing part on.
        found: String,
    },
    /// The query is not UTF-8 after its percent-encoding was undone.
    #[error("labelSelector is not UTF-8")]
    Encoding,
}

impl LabelSelector {
    /// The value of `labelSelector` in the query of a URL. Without it, the selector has no requirements.
    ///
    /// # Errors
    /// If the value is no selector.
    pub fn of_query(query: &str) -> Result<Self, Error> {
        let encoded = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default();
        // In a query, a plus sign stands for a space.
        let encoded = encoded.replace('+', " ");
        percent_decode_str(&encoded).decode_utf8().map_err(|_error| Error::Encoding)?.parse()
    }

    /// Whether `labels`, values by their keys, fulfil all requirements.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|Requirement { key, condition }| match (condition, labels.get(key)) {
            (Condition::Exists, found) => found.is_some(),
            (Condition::IsAbsent, found) => found.is_none(),
            (Condition::In(values), found) => found.is_some_and(|found| values.contains(found)),
            (Condition::NotIn(values), found) => found.is_none_or(|found| !values.contains(found)),
        })
    }
}

impl FromStr for LabelSelector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut rest = Rest(text.trim_start());
        let mut requirements = Vec::new();
        while !rest.0.is_empty() {
            requirements.push(rest.requirement()?);
            if !rest.0.is_empty() {
                rest.demand(",", "a comma")?;
                if rest.0.is_empty() {
                    return Err(rest.lacks("a label"));
                }
            }
        }
        Ok(Self(requirements))
    }
}

/// The part of the text that is not yet parsed. It begins with no white space.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn requirement(&mut self) -> Result<Requirement, Error> {
        let is_negated = self.take("!");
        let key = self.word();
        if key.is_empty() {
            return Err(self.lacks("a label"));
        }
        Ok(Requirement { key: key.into(), condition: if is_negated { Condition::IsAbsent } else { self.condition()? } })
    }

    fn condition(&mut self) -> Result<Condition, Error> {
        if self.0.is_empty() || self.0.starts_with(',') {
            return Ok(Condition::Exists);
        }
        if self.take("!=") {
            return Ok(Condition::NotIn(vec![self.word().into()]));
        }
        if self.take("==") || self.take("=") {
            return Ok(Condition::In(vec![self.word().into()]));
        }
        let operator = Rest(self.0).word();
        let condition = match operator {
            "in" => Condition::In,
            "notin" => Condition::NotIn,
            _ => return Err(self.lacks("=, !=, in or notin")),
        };
        self.take(operator);
        Ok(condition(self.values()?))
    }

    /// A list of values in parentheses. A value may be empty.
    fn values(&mut self) -> Result<Vec<String>, Error> {
        self.demand("(", "an opening parenthesis")?;
        let mut values = vec![self.word().into()];
        while self.take(",") {
            values.push(self.word().into());
        }
        self.demand(")", "a comma or a closing parenthesis")?;
        Ok(values)
    }

    /// The longest key or value at the beginning, which may be empty.
    fn word(&mut self) -> &'a str {
        let is_inside = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
        let end = self.0.find(|character| !is_inside(character)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest.trim_start();
        word
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.map_or(self.0, str::trim_start);
        rest.is_some()
    }

    fn demand(&mut self, token: &str, name: &'static str) -> Result<(), Error> {
        if self.take(token) { Ok(()) } else { Err(self.lacks(name)) }
    }

    fn lacks(&self, expected: &'static str) -> Error {
        Error::Expected { expected, found: self.0.chars().take(QUOTED).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_picks_the_labels_that_fulfil_all_its_requirements() {
        let labels: BTreeMap<String, String> =
            [("app", "shop"), ("example.com/tier", "front"), ("empty", "")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, expected) in [
            ("", true),
            ("  ", true),
            ("app", true),
            ("app=shop", true),
            ("app==shop", true),
            (" app = shop , !canary ", true),
            ("app=store", false),
            ("app=", false),
            ("empty=", true),
            ("app!=store", true),
            ("app!=shop", false),
            ("canary!=yes", true),
            ("canary", false),
            ("!app", false),
            ("! canary", true),
            ("app in (store, shop),example.com/tier=front", true),
            ("app in (store)", false),
            ("app in ()", false),
            ("empty in (,a)", true),
            ("canary in (yes)", false),
            ("app notin (store)", true),
            ("app notin(store,shop)", false),
            ("canary notin (yes)", true),
            ("in in (in)", false),
            ("notin", false),
            ("app=shop,app=store", false),
        ] {
            let selector: LabelSelector = text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(selector.matches(&labels), expected, "{text:?}");
        }
    }

    #[test]
    fn an_error_says_what_is_missing_and_where() {
        for (text, words) in [
            ("app=shop,", "needs a label in place of \"\""),
            (",", "needs a label in place of \",\""),
            ("=shop", "needs a label in place of \"=shop\""),
            ("!", "needs a label"),
            ("app=shop tier=front", "needs a comma in place of \"tier=front\""),
            ("!app=shop", "needs a comma in place of \"=shop\""),
            ("app>5", "needs =, !=, in or notin in place of \">5\""),
            ("app inside (a)", "needs =, !=, in or notin in place of \"inside (a)\""),
            ("app in a", "needs an opening parenthesis in place of \"a\""),
            ("app in (a", "needs a comma or a closing parenthesis in place of \"\""),
            ("app in (a b)", "needs a comma or a closing parenthesis in place of \"b)\""),
            ("app=sh\u{f6}p", "needs a comma in place of \"\u{f6}p\""),
        ] {
            let error = text.parse::<LabelSelector>().expect_err(text).to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        let long = format!("app={}", "(".repeat(100_000));
        assert!(long.parse::<LabelSelector>().expect_err("refused").to_string().len() < 200);
    }

    #[test]
    fn a_query_is_decoded() {
        let parsed = |text: &str| text.parse::<LabelSelector>();
        for (query, text) in [
            ("", ""),
            ("limit=5", ""),
            ("limit=5&labelSelector=a%2Fb%3Dc%2Cd%3D%3De", "a/b=c,d==e"),
            ("labelSelector=a+in+%28b%2Cc%29", "a in (b,c)"),
            ("labelSelector=a%20notin%20(b)", "a notin (b)"),
            ("labelSelector=%21a", "!a"),
        ] {
            assert_eq!(LabelSelector::of_query(query), parsed(text), "{query}");
        }
        assert_eq!(LabelSelector::of_query("labelSelector=%ff"), Err(Error::Encoding));
    }
}

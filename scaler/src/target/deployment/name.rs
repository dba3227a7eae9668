//! The name of a Deployment, as it is given on the command line.

use std::fmt;
use std::str::FromStr;

/// A Deployment by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Why a text names no Deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of that form.
    #[error("{0:?} is not of the form deployment:NAMESPACE/NAME, such as deployment:shop/replica")]
    Form(String),
    /// An RFC 1123 label is wanted.
    #[error("{0:?} cannot be a namespace: a to z, 0 to 9 and inner hyphens, 63 at most")]
    Namespace(String),
    /// An RFC 1123 subdomain is wanted.
    #[error("{0:?} cannot be a Deployment: a to z, 0 to 9, inner hyphens and dots, 253 at most")]
    Deployment(String),
}

impl FromStr for Name {
    type Err = Error;

    /// `deployment:NAMESPACE/NAME`
    fn from_str(text: &str) -> Result<Self, Error> {
        let path = text.strip_prefix("deployment:").and_then(|path| path.split_once('/'));
        let Some((namespace, name)) = path else { return Err(Error::Form(text.into())) };
        if !is_label(namespace) {
            return Err(Error::Namespace(namespace.into()));
        }
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(Error::Deployment(name.into()));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "deployment {}/{}", self.namespace, self.name)
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_are_named_by_namespace_and_name() {
        let parsed: Name = "deployment:shop/replica.v2".parse().expect("well formed");
        assert_eq!(parsed, Name { namespace: "shop".into(), name: "replica.v2".into() });
        assert_eq!(parsed.to_string(), "deployment shop/replica.v2");
        let long = "a".repeat(64);
        for (text, error) in [
            ("", Error::Form(String::new())),
            ("processes", Error::Form("processes".into())),
            ("shop/replica", Error::Form("shop/replica".into())),
            ("deployment:replica", Error::Form("deployment:replica".into())),
            ("deployment:/replica", Error::Namespace(String::new())),
            ("deployment:Shop/replica", Error::Namespace("Shop".into())),
            ("deployment:a.b/replica", Error::Namespace("a.b".into())),
            ("deployment:shop/", Error::Deployment(String::new())),
            ("deployment:shop/-x", Error::Deployment("-x".into())),
            ("deployment:shop/a/b", Error::Deployment("a/b".into())),
            ("deployment:shop/a..b", Error::Deployment("a..b".into())),
            (&format!("deployment:shop/{long}"), Error::Deployment(long.clone())),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error), "{text}");
        }
    }
}

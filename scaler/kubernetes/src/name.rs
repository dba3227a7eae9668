//! The name of a Deployment, as it is given on the command line.

use std::fmt;
use std::str::FromStr;

/// The namespace and the name of a Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentName {
    /// The namespace of the Deployment.
    pub namespace: String,
    /// The name of the Deployment in its namespace.
    pub name: String,
}

/// The reason why a text is not the name of a Deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text, which has another form.
    #[error("{0:?} is not of the form deployment:NAMESPACE/NAME, such as deployment:shop/replica")]
    Form(String),
    /// The namespace, which is no RFC 1123 label.
    #[error("{0:?} cannot be a namespace; use a to z, 0 to 9 and inner hyphens, at most 63 characters")]
    Namespace(String),
    /// The name, which is no RFC 1123 subdomain.
    #[error("{0:?} cannot be a Deployment; use a to z, 0 to 9, inner hyphens and dots, at most 253 characters")]
    Deployment(String),
}

impl FromStr for DeploymentName {
    type Err = Error;

    /// Parses `deployment:NAMESPACE/NAME`.
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

impl fmt::Display for DeploymentName {
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
        let parsed: DeploymentName = "deployment:shop/replica.v2".parse().expect("well formed");
        assert_eq!(parsed, DeploymentName { namespace: "shop".into(), name: "replica.v2".into() });
        assert_eq!(parsed.to_string(), "deployment shop/replica.v2");
        let long = "a".repeat(64);
        let form = |text: &str| (text.to_owned(), Error::Form(text.into()));
        let namespace = |it: &str| (format!("deployment:{it}/replica"), Error::Namespace(it.into()));
        let deployment = |it: &str| (format!("deployment:shop/{it}"), Error::Deployment(it.into()));
        let forms = ["", "processes", "shop/replica", "deployment:replica"].map(form);
        let namespaces = ["", "Shop", "a.b"].map(namespace);
        let deployments = ["", "-x", "a/b", "a..b", &long].map(deployment);
        for (text, error) in forms.into_iter().chain(namespaces).chain(deployments) {
            assert_eq!(text.parse::<DeploymentName>(), Err(error), "{text}");
        }
    }
}

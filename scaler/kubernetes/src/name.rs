//! The name of an object that can be scaled, as it is given on the command line.

use kube::api::ApiResource;
use std::fmt;
use std::str::FromStr;

/// The forms of a name, for messages of errors.
const FORMS: &str = "deployment:NAMESPACE/NAME, statefulset:NAMESPACE/NAME, rollout:NAMESPACE/NAME or \
                     scale:GROUP/VERSION/PLURAL:NAMESPACE/NAME";

/// The type of an object that can be scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScalableType {
    /// A Deployment of `apps/v1`.
    Deployment,
    /// A StatefulSet of `apps/v1`.
    StatefulSet,
    /// A Rollout of `argoproj.io/v1alpha1` (Argo Rollouts).
    Rollout,
    /// Any other type that has the subresource `scale`.
    Other {
        /// The API group; empty for the core group.
        group: String,
        /// The version of the API.
        version: String,
        /// The plural of the type, as in paths of the API.
        plural: String,
    },
}

impl ScalableType {
    /// The API group, the version and the plural.
    pub fn path(&self) -> (&str, &str, &str) {
        match self {
            Self::Deployment => ("apps", "v1", "deployments"),
            Self::StatefulSet => ("apps", "v1", "statefulsets"),
            Self::Rollout => ("argoproj.io", "v1alpha1", "rollouts"),
            Self::Other { group, version, plural } => (group, version, plural),
        }
    }

    /// The API group and the version, as objects have them in `apiVersion`.
    pub fn api_version(&self) -> String {
        match self.path() {
            ("", version, _) => version.into(),
            (group, version, _) => format!("{group}/{version}"),
        }
    }

    /// The kind; `None` if only the API server knows it.
    pub fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Deployment => Some("Deployment"),
            Self::StatefulSet => Some("StatefulSet"),
            Self::Rollout => Some("Rollout"),
            Self::Other { .. } => None,
        }
    }

    /// The type for requests. `kind` is the type's kind.
    pub fn resource(&self, kind: &str) -> ApiResource {
        let (group, version, plural) = self.path();
        let (group, version, plural) = (group.into(), version.into(), plural.into());
        ApiResource { group, version, api_version: self.api_version(), kind: kind.into(), plural }
    }

    /// The type in the value of a flag.
    fn prefix(&self) -> String {
        match self {
            Self::Deployment => "deployment".into(),
            Self::StatefulSet => "statefulset".into(),
            Self::Rollout => "rollout".into(),
            Self::Other { plural, .. } => format!("scale:{}/{plural}", self.api_version()),
        }
    }
}

impl fmt::Display for ScalableType {
    /// Writes the type for messages, such as `deployment` or `widgets.example.com`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other { group, plural, .. } if group.is_empty() => write!(f, "{plural}"),
            Self::Other { group, plural, .. } => write!(f, "{plural}.{group}"),
            known => write!(f, "{}", known.prefix()),
        }
    }
}

/// The type, the namespace and the name of an object that can be scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalableName {
    /// The type of the object.
    pub type_: ScalableType,
    /// The namespace of the object.
    pub namespace: String,
    /// The name of the object in its namespace.
    pub name: String,
}

impl ScalableName {
    /// The name as the value of a flag.
    pub fn flag(&self) -> String {
        format!("{}:{}/{}", self.type_.prefix(), self.namespace, self.name)
    }
}

/// The namespace and the name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The namespace of the object.
    pub namespace: String,
    /// The name of the object in its namespace.
    pub name: String,
}

impl FromStr for ObjectName {
    type Err = Error;

    /// Parses a text such as `shop/replica`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| Error::Path(text.into()))?;
        if !is_label(namespace) {
            return Err(Error::Namespace(namespace.into()));
        }
        if !is_subdomain(name) {
            return Err(Error::Name(name.into()));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The reason why a text is not the name of an object that can be scaled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text, which has another form.
    #[error("{0:?} is not of the form {FORMS}, such as deployment:shop/replica")]
    Form(String),
    /// The text, which has no namespace.
    #[error("{0:?} is not of the form NAMESPACE/NAME, such as shop/replica")]
    Path(String),
    /// The type, which has no API group, version and plural.
    #[error(
        "{0:?} is no type; write GROUP/VERSION/PLURAL, such as example.com/v1/widgets, or VERSION/PLURAL for the core group"
    )]
    Type(String),
    /// The namespace, which is no RFC 1123 label.
    #[error("{0:?} cannot be a namespace; use a to z, 0 to 9 and inner hyphens, at most 63 characters")]
    Namespace(String),
    /// The name, which is no RFC 1123 subdomain.
    #[error("{0:?} cannot be a name; use a to z, 0 to 9, inner hyphens and dots, at most 253 characters")]
    Name(String),
}

impl FromStr for ScalableName {
    type Err = Error;

    /// Parses a value such as `deployment:shop/replica`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let form = || Error::Form(text.into());
        let (prefix, rest) = text.split_once(':').ok_or_else(form)?;
        let (type_, path) = match prefix {
            "deployment" => (ScalableType::Deployment, rest),
            "statefulset" => (ScalableType::StatefulSet, rest),
            "rollout" => (ScalableType::Rollout, rest),
            "scale" => {
                let (type_, path) = rest.split_once(':').ok_or_else(form)?;
                (other(type_)?, path)
            }
            _ => return Err(form()),
        };
        let ObjectName { namespace, name } = match path.parse() {
            Err(Error::Path(_)) => return Err(form()),
            parsed => parsed?,
        };
        Ok(Self { type_, namespace, name })
    }
}

/// The type that `text` names. Types that have a prefix of their own become those: two flags for one object would
/// otherwise look like two targets.
fn other(text: &str) -> Result<ScalableType, Error> {
    let error = || Error::Type(text.into());
    let parts: Vec<&str> = text.split('/').collect();
    let (group, version, plural) = match parts[..] {
        [group, version, plural] if is_subdomain(group) => (group, version, plural),
        [version, plural] => ("", version, plural),
        _ => return Err(error()),
    };
    if !is_label(version) || !is_label(plural) {
        return Err(error());
    }
    let known = [ScalableType::Deployment, ScalableType::StatefulSet, ScalableType::Rollout];
    let known = known.into_iter().find(|known| known.path() == (group, version, plural));
    Ok(known.unwrap_or_else(|| ScalableType::Other {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
    }))
}

impl fmt::Display for ScalableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.type_, self.namespace, self.name)
    }
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
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
    fn objects_are_named_by_type_namespace_and_name() {
        for (flag, api_version, plural, text) in [
            ("deployment:shop/replica.v2", "apps/v1", "deployments", "deployment shop/replica.v2"),
            ("statefulset:shop/replica", "apps/v1", "statefulsets", "statefulset shop/replica"),
            ("rollout:shop/replica", "argoproj.io/v1alpha1", "rollouts", "rollout shop/replica"),
            ("scale:example.com/v1/widgets:shop/a", "example.com/v1", "widgets", "widgets.example.com shop/a"),
            ("scale:v1/replicationcontrollers:shop/a", "v1", "replicationcontrollers", "replicationcontrollers shop/a"),
        ] {
            let parsed: ScalableName = flag.parse().expect("the text is well formed");
            assert_eq!((parsed.flag(), parsed.to_string()), (flag.into(), text.into()));
            assert_eq!((parsed.type_.api_version().as_str(), parsed.type_.path().2), (api_version, plural));
        }
        let same: ScalableName = "scale:apps/v1/deployments:shop/a".parse().expect("the text is well formed");
        assert_eq!(same.flag(), "deployment:shop/a");
    }

    #[test]
    fn an_error_quotes_the_part_that_is_wrong() {
        let long = "a".repeat(64);
        let form = |text: &str| (text.to_owned(), Error::Form(text.into()));
        let type_ = |it: &str| (format!("scale:{it}:shop/replica"), Error::Type(it.into()));
        let namespace = |it: &str| (format!("statefulset:{it}/replica"), Error::Namespace(it.into()));
        let name = |it: &str| (format!("deployment:shop/{it}"), Error::Name(it.into()));
        let forms = ["", "processes", "shop/replica", "deployment:replica", "pod:shop/a", "scale:v1/pods"].map(form);
        let types = ["", "pods", "a/b/c/d", "Example.com/v1/widgets", "example.com//widgets"].map(type_);
        let namespaces = ["", "Shop", "a.b"].map(namespace);
        let names = ["", "-x", "a/b", "a..b", &long].map(name);
        for (text, error) in [
            ("", Error::Path("".into())),
            ("replica", Error::Path("replica".into())),
            ("Shop/replica", Error::Namespace("Shop".into())),
            ("shop/replica/scale", Error::Name("replica/scale".into())),
        ] {
            assert_eq!(text.parse::<ObjectName>(), Err(error), "{text}");
        }
        for (text, error) in forms.into_iter().chain(types).chain(namespaces).chain(names) {
            assert_eq!(text.parse::<ScalableName>(), Err(error), "{text}");
        }
    }
}

//! The environment variables of a container, from the texts, fields, ConfigMaps and Secrets of its specification. Pure.

use super::field::PodFields;
use super::object::{ObjectName, Objects};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar};
use std::collections::BTreeMap;

/// The sources of the environment variables of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Environment {
    /// The entries of `envFrom`. If two have the same variable, the later entry wins.
    sets: Vec<VariableSet>,
    /// The names and sources of the entries of `env`, in the order of the specification. They win over `envFrom`.
    variables: Vec<(String, VariableSource)>,
}

/// An object whose keys all become variables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct VariableSet {
    object: ObjectName,
    /// The text before each key in the name of its variable.
    prefix: String,
    /// Whether the object may be missing.
    is_optional: bool,
}

/// The source of an environment variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum VariableSource {
    /// A text, which may have references to earlier variables.
    Text(String),
    /// The path of a field of the pod, such as `metadata.name`.
    Field(String),
    /// A key of a ConfigMap or a Secret.
    Key {
        object: ObjectName,
        key: String,
        /// Whether the object or the key may be missing.
        is_optional: bool,
    },
}

/// The values of variables by name.
pub(super) type Variables = BTreeMap<String, String>;

impl Environment {
    /// The sources of the variables of `container`.
    ///
    /// # Errors
    /// If this node does not know a source. The message names the variable.
    pub(super) fn new(container: &Container) -> Result<Self> {
        let sets = container.env_from.iter().flatten().map(variable_set).collect::<Result<_>>()?;
        let variables = container.env.iter().flatten();
        let variables = variables.map(|variable| Ok((variable.name.clone(), source(variable)?)));
        Ok(Self { sets, variables: variables.collect::<Result<_>>()? })
    }

    /// The objects that the variables need.
    pub(super) fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        let keys = self.variables.iter().filter_map(|(_, source)| match source {
            VariableSource::Key { object, .. } => Some(object),
            VariableSource::Text(_) | VariableSource::Field(_) => None,
        });
        self.sets.iter().map(|set| &set.object).chain(keys)
    }

    /// The values of the variables. Keys that are no names of variables are left out.
    ///
    /// # Errors
    /// If a required object or key is missing, a value is no text, or this node does not know a field.
    pub(super) fn resolve(&self, fields: PodFields<'_>, objects: &Objects) -> Result<Variables> {
        let mut variables = Variables::new();
        for set in &self.sets {
            let Some(found) = objects.get(&set.object) else {
                ensure!(set.is_optional, "envFrom: {} does not exist", set.object);
                continue;
            };
            for (key, value) in &found.data {
                let name = format!("{}{key}", set.prefix);
                if is_variable_name(&name) {
                    variables.insert(name, text(value, key, &set.object)?);
                }
            }
        }
        for (name, source) in &self.variables {
            let value = match source {
                VariableSource::Text(text) => Some(expand(text, &variables)),
                VariableSource::Field(path) => Some(fields.get(path)?),
                VariableSource::Key { object, key, is_optional } => {
                    let found = key_value(objects, object, key).with_context(|| format!("env {name}"));
                    match found {
                        Err(_) if *is_optional => None,
                        found => Some(text(found?, key, object)?),
                    }
                }
            };
            variables.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(variables)
    }
}

fn variable_set(source: &EnvFromSource) -> Result<VariableSet> {
    let (object, is_optional) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(map), None) => (ObjectName::ConfigMap(map.name.clone()), map.optional),
        (None, Some(secret)) => (ObjectName::Secret(secret.name.clone()), secret.optional),
        _ => bail!("envFrom has an entry that is neither a configMapRef nor a secretRef"),
    };
    let prefix = source.prefix.clone().unwrap_or_default();
    Ok(VariableSet { object, prefix, is_optional: is_optional.unwrap_or(false) })
}

fn source(variable: &EnvVar) -> Result<VariableSource> {
    let Some(source) = &variable.value_from else {
        return Ok(VariableSource::Text(variable.value.clone().unwrap_or_default()));
    };
    let key = |object, key: &String, optional: Option<bool>| VariableSource::Key {
        object,
        key: key.clone(),
        is_optional: optional.unwrap_or(false),
    };
    if let Some(field) = &source.field_ref {
        Ok(VariableSource::Field(field.field_path.clone()))
    } else if let Some(map) = &source.config_map_key_ref {
        Ok(key(ObjectName::ConfigMap(map.name.clone()), &map.key, map.optional))
    } else if let Some(secret) = &source.secret_key_ref {
        Ok(key(ObjectName::Secret(secret.name.clone()), &secret.key, secret.optional))
    } else {
        bail!("env {}: this node knows only the sources fieldRef, configMapKeyRef and secretKeyRef", variable.name)
    }
}

fn key_value<'a>(objects: &'a Objects, object: &ObjectName, key: &str) -> Result<&'a [u8]> {
    let found = objects.get(object).with_context(|| format!("{object} does not exist"))?;
    let value = found.data.get(key).with_context(|| format!("{object} has no key {key}"))?;
    Ok(value)
}

/// The text of a value. The kernel ends variables at a zero byte, so that the program would get a part of the value.
fn text(value: &[u8], key: &str, object: &ObjectName) -> Result<String> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
    text.map(str::to_owned).with_context(|| format!("the value of {key} in {object} is no text, so no variable"))
}

/// Whether `name` is the name of an environment variable by Kubernetes' rules.
fn is_variable_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    name.bytes().all(is_part)
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        && name != "."
        && !name.starts_with("..")
}

/// Replaces `$(NAME)` by the variable's value, and `$$` by `$`. A reference to an unknown variable stays unchanged, as
/// the documentation of Container says.
pub(super) fn expand(text: &str, variables: &Variables) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let reference = after.strip_prefix('(').and_then(|reference| reference.split_once(')'));
        let known = reference.and_then(|(name, after)| Some((variables.get(name)?, after)));
        if let Some((value, after)) = known {
            expanded.push_str(value);
            rest = after;
        } else {
            expanded.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::object::ObjectData;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn object(data: &[(&str, &[u8])]) -> ObjectData {
        let data = data.iter().map(|&(key, value)| (key.to_owned(), value.to_vec())).collect();
        ObjectData { data, binary: [("BINARY".to_owned(), vec![1])].into() }
    }

    /// The variables of a container, as a list of NAME=VALUE.
    fn resolve(container: Value, objects: &Objects) -> Result<Vec<String>> {
        let mut whole = json!({"name": "a"});
        whole.as_object_mut().expect("an object").extend(container.as_object().expect("an object").clone());
        let pod = json!({"metadata": {"name": "a-1"}, "spec": {"containers": []}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let fields = PodFields { pod: &pod, address: [10, 0, 0, 2].into(), node: [10, 0, 0, 1].into() };
        let environment = Environment::new(&serde_json::from_value(whole).expect("a container"))?;
        let variables = environment.resolve(fields, objects)?;
        Ok(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn references_to_known_variables_are_replaced() {
        let variables = Variables::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
        for (text, expected) in
            [("--a=$(A)/$(B):c", "--a=1/2:c"), ("$(C) $A $( $", "$(C) $A $( $"), ("$$(A) $$", "$(A) $"), ("", "")]
        {
            assert_eq!(expand(text, &variables), expected);
        }
    }

    #[test]
    fn later_sources_win_over_earlier_ones_and_env_over_env_from() -> Result<()> {
        let objects = Objects::from([
            (ObjectName::ConfigMap("m".into()), object(&[("A", b"map"), ("B", b"map"), ("C", b"map")])),
            (ObjectName::Secret("s".into()), object(&[("B", b"secret"), ("C", b"secret")])),
        ]);
        let container = json!({
            "envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}},
                {"prefix": "P_", "configMapRef": {"name": "m"}}],
            "env": [{"name": "C", "value": "$(B), $(POD)"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath":
                "metadata.name"}}}, {"name": "D", "value": "$(C) at $(POD)"}],
        });
        let expected = [
            "A=map",
            "B=secret",
            "C=secret, $(POD)",
            "D=secret, $(POD) at a-1",
            "POD=a-1",
            "P_A=map",
            "P_B=map",
            "P_C=map",
        ];
        assert_eq!(resolve(container, &objects)?, expected);
        Ok(())
    }

    #[test]
    fn keys_that_are_no_names_of_variables_are_left_out() -> Result<()> {
        let data = object(&[("a.b-c", b"1"), ("1a", b"2"), (".", b"3"), ("..a", b"4"), ("_", b"5"), (".a", b"6")]);
        let objects = Objects::from([(ObjectName::ConfigMap("m".into()), data)]);
        let found = resolve(json!({"envFrom": [{"configMapRef": {"name": "m"}}]}), &objects)?;
        assert_eq!(found, [".a=6", "_=5", "a.b-c=1"]);
        let prefixed = resolve(json!({"envFrom": [{"prefix": "P", "configMapRef": {"name": "m"}}]}), &objects)?;
        assert!(prefixed.contains(&"P1a=2".to_owned()), "{prefixed:?}");
        Ok(())
    }

    #[test]
    fn only_optional_objects_and_keys_may_be_missing() {
        let objects = Objects::from([(ObjectName::Secret("s".into()), object(&[("K", b"value"), ("BAD", b"\xff")]))]);
        let key = |kind: &str, name: &str, key: &str, optional: bool| json!({"env": [{"name": "A", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]});
        let all = |kind: &str, optional: bool| json!({"envFrom": [{kind: {"name": "x", "optional": optional}}]});
        for (container, expected) in [
            (key("secretKeyRef", "s", "K", false), Ok(vec!["A=value".to_owned()])),
            (key("secretKeyRef", "s", "L", false), Err("env A: Secret s has no key L")),
            (key("secretKeyRef", "s", "L", true), Ok(vec![])),
            (key("secretKeyRef", "s", "BINARY", false), Err("env A: Secret s has no key BINARY")),
            (key("configMapKeyRef", "s", "K", false), Err("env A: ConfigMap s does not exist")),
            (key("configMapKeyRef", "s", "K", true), Ok(vec![])),
            (all("configMapRef", false), Err("envFrom: ConfigMap x does not exist")),
            (all("secretRef", false), Err("envFrom: Secret x does not exist")),
            (all("secretRef", true), Ok(vec![])),
            (key("secretKeyRef", "s", "BAD", true), Err("the value of BAD in Secret s is no text, so no variable")),
        ] {
            let found = resolve(container.clone(), &objects).map_err(|error| format!("{error:#}"));
            assert_eq!(found, expected.map_err(str::to_owned), "{container}");
        }
    }

    #[test]
    fn unknown_sources_are_refused() {
        let field = |path: &str| json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}}]});
        let resource = json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]});
        for (container, word) in
            [(resource, "env A"), (json!({"envFrom": [{}]}), "envFrom"), (field("status.phase"), "status.phase")]
        {
            let error = resolve(container, &Objects::new()).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

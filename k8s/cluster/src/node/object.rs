//! The data of the ConfigMaps and Secrets that pods refer to.

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use kubernetes::request;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter};

/// A ConfigMap or a Secret in the namespace of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ObjectName {
    /// The ConfigMap of this name.
    ConfigMap(String),
    /// The Secret of this name.
    Secret(String),
}

/// The data of a ConfigMap or a Secret by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ObjectData {
    /// A ConfigMap's `data`, or all data of a Secret.
    pub data: BTreeMap<String, Vec<u8>>,
    /// A ConfigMap's `binaryData`, which can be files, but not variables.
    pub binary: BTreeMap<String, Vec<u8>>,
}

/// Objects with their data. Objects that do not exist are missing.
pub(super) type Objects = BTreeMap<ObjectName, ObjectData>;

impl Display for ObjectName {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ConfigMap(name) => write!(formatter, "ConfigMap {name}"),
            Self::Secret(name) => write!(formatter, "Secret {name}"),
        }
    }
}

/// The objects of `names` that exist in `namespace`.
///
/// # Errors
/// If the API server does not answer.
pub(super) async fn fetch(client: &Client, namespace: &str, names: BTreeSet<&ObjectName>) -> Result<Objects> {
    let mut objects = Objects::new();
    for name in names {
        let data = match name {
            ObjectName::ConfigMap(name) => {
                let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
                request(maps.get_opt(name)).await.map(|map| map.map(ObjectData::from))
            }
            ObjectName::Secret(name) => {
                let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
                request(secrets.get_opt(name)).await.map(|secret| secret.map(ObjectData::from))
            }
        };
        if let Some(data) = data.with_context(|| format!("get {name}"))? {
            objects.insert(name.clone(), data);
        }
    }
    Ok(objects)
}

impl From<ConfigMap> for ObjectData {
    fn from(map: ConfigMap) -> Self {
        let data = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes())).collect();
        Self { data, binary: bytes(map.binary_data) }
    }
}

impl From<Secret> for ObjectData {
    fn from(secret: Secret) -> Self {
        Self { data: bytes(secret.data), binary: BTreeMap::new() }
    }
}

fn bytes(data: Option<BTreeMap<String, ByteString>>) -> BTreeMap<String, Vec<u8>> {
    data.unwrap_or_default().into_iter().map(|(key, ByteString(bytes))| (key, bytes)).collect()
}

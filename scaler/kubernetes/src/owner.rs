//! Other autoscalers of a Deployment: a HorizontalPodAutoscaler, or a ScaledObject of KEDA. Two that scale the same Deployment
//! undo each other's changes for ever.

use crate::name::Name;
use crate::{Failure, request};
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Searches for other autoscalers of one Deployment.
pub struct Owners {
    name: Name,
    autoscalers: Api<HorizontalPodAutoscaler>,
    scaled: Api<DynamicObject>,
    /// Whether it was logged that the scaler may not list them.
    is_logged: bool,
}

impl Owners {
    /// A search for other autoscalers of the Deployment `name`.
    pub fn new(name: &Name, client: &Client) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
        Self {
            name: name.clone(),
            autoscalers: Api::namespaced(client.clone(), &name.namespace),
            scaled: Api::namespaced_with(client.clone(), &name.namespace, &kind),
            is_logged: false,
        }
    }

    /// The autoscaler that scales the Deployment, and what to do about it; `None` if there is none, or if the scaler may not
    /// list them.
    ///
    /// # Errors
    /// When the API server does not answer, or fails.
    pub async fn find(&mut self) -> Result<Option<String>, Failure> {
        // First, as each ScaledObject has an autoscaler of its own, which KEDA would only create again.
        let scaled = self.list(self.scaled.clone()).await?;
        let autoscalers = self.list(self.autoscalers.clone()).await?;
        Ok(owner(&self.name, &scaled, &autoscalers))
    }

    async fn list<K: Clone + DeserializeOwned + Debug>(&mut self, api: Api<K>) -> Result<Vec<K>, Failure> {
        match request(api.list(&ListParams::default())).await {
            Ok(list) => Ok(list.items),
            // The cluster has no such kind.
            Err(failure) if failure.is(404) => Ok(Vec::new()),
            Err(failure) if failure.is(403) => {
                if !std::mem::replace(&mut self.is_logged, true) {
                    tracing::warn!("cannot see whether another autoscaler owns {}: {failure}", self.name);
                }
                Ok(Vec::new())
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The one of these objects that scales the Deployment `name`. Pure.
fn owner(name: &Name, scaled: &[DynamicObject], autoscalers: &[HorizontalPodAutoscaler]) -> Option<String> {
    let is_target = |kind: &str, target: &str| kind == "Deployment" && target == name.name;
    let scaled = scaled.iter().find(|object| {
        let field = |field: &str| object.data.pointer(&format!("/spec/scaleTargetRef/{field}"))?.as_str();
        // Without a kind KEDA means a Deployment.
        is_target(field("kind").unwrap_or("Deployment"), field("name").unwrap_or_default())
    });
    let autoscaler = autoscalers.iter().find(|object| {
        object.spec.as_ref().is_some_and(|spec| is_target(&spec.scale_target_ref.kind, &spec.scale_target_ref.name))
    });
    let (kind, owner) = match (scaled, autoscaler) {
        (Some(object), _) => ("ScaledObject", object.name_any()),
        (None, Some(object)) => ("HorizontalPodAutoscaler", object.name_any()),
        (None, None) => return None,
    };
    Some(format!("{kind} {}/{owner} scales {name} already; delete it, or stop this scaler", name.namespace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn objects<K: DeserializeOwned>(targets: &[(&str, Value)]) -> Vec<K> {
        let object = |(name, target): &(&str, Value)| {
            let spec = json!({"scaleTargetRef": target, "maxReplicas": 2});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("an object")
        };
        targets.iter().map(object).collect()
    }

    #[test]
    fn an_autoscaler_of_the_same_deployment_owns_it() {
        let name = Name { namespace: "shop".into(), name: "replica".into() };
        let same = || json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "replica"});
        let other = || json!({"kind": "Deployment", "name": "other"});
        let set = || json!({"kind": "StatefulSet", "name": "replica"});
        for (scaled, autoscalers, expected) in [
            (vec![], vec![], ""),
            (vec![("a", other()), ("b", set())], vec![("c", other()), ("d", set())], ""),
            (vec![], vec![("c", other()), ("d", same())], "HorizontalPodAutoscaler shop/d"),
            (vec![("a", json!({"name": "replica"}))], vec![], "ScaledObject shop/a"),
            (vec![("a", same())], vec![("keda-hpa-a", same())], "ScaledObject shop/a"),
        ] {
            let found = owner(&name, &objects(&scaled), &objects(&autoscalers)).unwrap_or_default();
            assert_eq!(found.split(" scales").next(), Some(expected));
        }
    }
}

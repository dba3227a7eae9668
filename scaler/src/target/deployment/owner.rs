//! Who else scales a Deployment: a HorizontalPodAutoscaler, or a ScaledObject of KEDA. Two that scale the same one
//! undo each other's changes for ever.

use super::Name;
use crate::cluster::{Failure, request};
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Looks for them.
pub struct Owners {
    name: Name,
    autoscalers: Api<HorizontalPodAutoscaler>,
    scaled: Api<DynamicObject>,
    /// That it is not allowed to look has been said.
    told: bool,
}

impl Owners {
    /// Of this Deployment.
    pub fn new(name: &Name, client: &Client) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
        Self {
            name: name.clone(),
            autoscalers: Api::namespaced(client.clone(), &name.namespace),
            scaled: Api::namespaced_with(client.clone(), &name.namespace, &kind),
            told: false,
        }
    }

    /// Who owns it, and what to do about it.
    ///
    /// # Errors
    /// When the API server does not answer, or fails. That it does not let the scaler look is no failure.
    pub async fn find(&mut self) -> Result<Option<String>, Failure> {
        // First, as each has an autoscaler of its own, which KEDA would only create again.
        let scaled = self.list(self.scaled.clone()).await?;
        let autoscalers = self.list(self.autoscalers.clone()).await?;
        Ok(owner(&self.name, &scaled, &autoscalers))
    }

    async fn list<K: Clone + DeserializeOwned + Debug>(&mut self, api: Api<K>) -> Result<Vec<K>, Failure> {
        match request(api.list(&ListParams::default())).await {
            Ok(list) => Ok(list.items),
            // There is no such kind here.
            Err(failure) if failure.is(404) => Ok(Vec::new()),
            Err(failure) if failure.is(403) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!("cannot see whether another autoscaler owns {}: {failure}", self.name);
                }
                Ok(Vec::new())
            }
            Err(failure) => Err(failure),
        }
    }
}

/// PURE: which of them scales this Deployment.
fn owner(name: &Name, scaled: &[DynamicObject], autoscalers: &[HorizontalPodAutoscaler]) -> Option<String> {
    let is_it = |kind: &str, target: &str| kind == "Deployment" && target == name.name;
    let scaled = scaled.iter().find(|object| {
        let of = |field: &str| object.data.pointer(&format!("/spec/scaleTargetRef/{field}"))?.as_str();
        // KEDA's default.
        is_it(of("kind").unwrap_or("Deployment"), of("name").unwrap_or_default())
    });
    let autoscaler = autoscalers.iter().find(|object| {
        object.spec.as_ref().is_some_and(|spec| is_it(&spec.scale_target_ref.kind, &spec.scale_target_ref.name))
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
        let object = |(name, target): &(&str, Value)| json!({"metadata": {"name": name}, "spec": {"scaleTargetRef": target, "maxReplicas": 2}});
        targets.iter().map(|target| serde_json::from_value(object(target)).expect("an object")).collect()
    }

    #[test]
    fn whoever_targets_the_same_deployment_owns_it() {
        let name = Name { namespace: "shop".into(), name: "replica".into() };
        let same = || json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "replica"});
        let other = || json!({"kind": "Deployment", "name": "other"});
        let set = || json!({"kind": "StatefulSet", "name": "replica"});
        let unsaid = || json!({"name": "replica"});
        for (scaled, autoscalers, expected) in [
            (vec![], vec![], None),
            (vec![("a", other()), ("b", set())], vec![("c", other()), ("d", set())], None),
            (vec![], vec![("c", other()), ("d", same())], Some("HorizontalPodAutoscaler shop/d ")),
            (vec![("a", unsaid())], vec![], Some("ScaledObject shop/a ")),
            (vec![("a", same())], vec![("keda-hpa-a", same())], Some("ScaledObject shop/a ")),
        ] {
            let found = owner(&name, &objects(&scaled), &objects(&autoscalers));
            let matches = match (&found, expected) {
                (Some(found), Some(expected)) => found.starts_with(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(matches, "{found:?} instead of {expected:?}");
        }
    }
}

//! A search for other autoscalers of a Deployment: a HorizontalPodAutoscaler, or a ScaledObject of KEDA. Two
//! autoscalers of one Deployment undo each other's changes again and again.

use crate::name::DeploymentName;
use crate::{ApiError, request};
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::Instant;

/// The least time between two warnings that autoscalers of one kind cannot be listed.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A search for other autoscalers of one Deployment.
pub struct Owners {
    name: DeploymentName,
    autoscalers: Listing<HorizontalPodAutoscaler>,
    scaled: Listing<DynamicObject>,
}

/// All autoscalers of one kind in a namespace, as they were last known.
struct Listing<K> {
    api: Api<K>,
    known: Vec<K>,
    /// The time of the last warning that they cannot be listed.
    warned: Option<Instant>,
}

impl Owners {
    /// A search for other autoscalers of the Deployment `name`.
    pub fn new(name: &DeploymentName, client: &Client) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
        Self {
            name: name.clone(),
            autoscalers: Listing::new(Api::namespaced(client.clone(), &name.namespace)),
            scaled: Listing::new(Api::namespaced_with(client.clone(), &name.namespace, &kind)),
        }
    }

    /// A message that names the autoscaler that scales the Deployment, and says what to do. `None` if there is none, or
    /// if the scaler may not list autoscalers. If the API server answers with another error, the last known autoscalers
    /// count.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn find(&mut self) -> Result<Option<String>, ApiError> {
        self.scaled.refresh(&self.name).await?;
        self.autoscalers.refresh(&self.name).await?;
        Ok(owner(&self.name, &self.scaled.known, &self.autoscalers.known))
    }
}

impl<K: Clone + DeserializeOwned + Debug> Listing<K> {
    fn new(api: Api<K>) -> Self {
        Self { api, known: Vec::new(), warned: None }
    }

    async fn refresh(&mut self, name: &DeploymentName) -> Result<(), ApiError> {
        match request(self.api.list(&ListParams::default())).await {
            Ok(list) => self.known = list.items,
            // The cluster has no kind ScaledObject, as KEDA is not installed.
            Err(failure) if failure.is(404) => self.known.clear(),
            Err(failure) if failure.is(403) => {
                self.known.clear();
                if self.warned.is_none() {
                    self.warn(name, &failure, "let the scaler list horizontalpodautoscalers and scaledobjects");
                }
            }
            Err(failure @ ApiError::Unanswered(_)) => return Err(failure),
            Err(failure) => {
                if self.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
                    self.warn(name, &failure, "the last known ones count until the API server lists them again");
                }
            }
        }
        Ok(())
    }

    fn warn(&mut self, name: &DeploymentName, failure: &ApiError, advice: &str) {
        tracing::warn!("cannot find other autoscalers of {name}: {failure}; {advice}");
        self.warned = Some(Instant::now());
    }
}

/// A message about the first of these objects that scales the Deployment `name`. Pure.
fn owner(name: &DeploymentName, scaled: &[DynamicObject], autoscalers: &[HorizontalPodAutoscaler]) -> Option<String> {
    let is_target = |kind: &str, target: &str| kind == "Deployment" && target == name.name;
    let scaled = scaled.iter().find(|object| {
        let field = |field: &str| object.data.pointer(&format!("/spec/scaleTargetRef/{field}"))?.as_str();
        // KEDA takes a target without a kind for a Deployment.
        is_target(field("kind").unwrap_or("Deployment"), field("name").unwrap_or_default())
    });
    let autoscaler = autoscalers.iter().find(|object| {
        object.spec.as_ref().is_some_and(|spec| is_target(&spec.scale_target_ref.kind, &spec.scale_target_ref.name))
    });
    // A ScaledObject comes first: if only its autoscaler were deleted, KEDA would create it again. The autoscaler names
    // it, too: the ScaledObject may have been created after ScaledObjects were listed.
    let kind = "ScaledObject";
    let (kind, owner) = match (scaled, autoscaler) {
        (Some(object), _) => (kind, object.name_any()),
        (None, Some(object)) => match object.owner_references().iter().find(|reference| reference.kind == kind) {
            Some(scaled) => (kind, scaled.name.clone()),
            None => ("HorizontalPodAutoscaler", object.name_any()),
        },
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
        let name = DeploymentName { namespace: "shop".into(), name: "replica".into() };
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
        // The ScaledObject was created after ScaledObjects and before autoscalers were listed.
        let mut autoscalers: Vec<HorizontalPodAutoscaler> = objects(&[("keda-hpa-a", same())]);
        let maker = json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "a", "uid": "1"}]);
        autoscalers[0].metadata.owner_references = serde_json::from_value(maker).expect("owner references");
        let found = owner(&name, &[], &autoscalers).expect("an owner");
        assert!(found.starts_with("ScaledObject shop/a scales"), "{found}");
    }
}

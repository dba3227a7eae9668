//! A search for other autoscalers of an object: a HorizontalPodAutoscaler, or a ScaledObject of KEDA. Two autoscalers of
//! one object undo each other's changes again and again.

use crate::denials::Denials;
use crate::name::ScalableName;
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

/// A search for other autoscalers of one object.
pub struct Owners {
    name: ScalableName,
    autoscalers: Listing<HorizontalPodAutoscaler>,
    scaled: Listing<DynamicObject>,
}

/// All autoscalers of one kind in a namespace, as they were last known.
struct Listing<K> {
    api: Api<K>,
    known: Vec<K>,
    denials: Denials,
    /// The time of the last warning that they cannot be listed.
    warned: Option<Instant>,
}

impl Owners {
    /// A search for other autoscalers of the object `name`.
    pub fn new(name: &ScalableName, client: &Client) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
        Self {
            name: name.clone(),
            autoscalers: Listing::new(Api::namespaced(client.clone(), &name.namespace)),
            scaled: Listing::new(Api::namespaced_with(client.clone(), &name.namespace, &kind)),
        }
    }

    /// A message that names the autoscaler that scales the object, whose kind is `kind`, and says what to do. `None` if
    /// there is none, or if the scaler may not list autoscalers. If the API server answers with another error, or forbids
    /// the request for a moment only, the last known autoscalers count.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn find(&mut self, kind: &str) -> Result<Option<String>, ApiError> {
        self.scaled.refresh(&self.name).await?;
        self.autoscalers.refresh(&self.name).await?;
        Ok(owner(&self.name, kind, &self.scaled.known, &self.autoscalers.known))
    }
}

impl<K: Clone + DeserializeOwned + Debug> Listing<K> {
    fn new(api: Api<K>) -> Self {
        Self { api, known: Vec::new(), denials: Denials::default(), warned: None }
    }

    async fn refresh(&mut self, name: &ScalableName) -> Result<(), ApiError> {
        let answer = request(self.api.list(&ListParams::default())).await;
        self.denials.note(answer.as_ref().err(), Instant::now());
        match answer {
            Ok(list) => self.known = list.items,
            // The cluster has no kind ScaledObject, as KEDA is not installed.
            Err(failure) if failure.is(404) => self.known.clear(),
            Err(failure) if self.denials.last(Instant::now()) => {
                self.known.clear();
                if self.warned.is_none() {
                    self.warn(name, &failure, "let the scaler list horizontalpodautoscalers and scaledobjects");
                }
            }
            Err(_) if self.denials.may_pass(Instant::now()) => {}
            Err(failure @ ApiError::Unanswered(_)) => return Err(failure),
            Err(failure) => {
                if self.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
                    self.warn(name, &failure, "the last known ones count until the API server lists them again");
                }
            }
        }
        Ok(())
    }

    fn warn(&mut self, name: &ScalableName, failure: &ApiError, advice: &str) {
        tracing::warn!("cannot find other autoscalers of {name}: {failure}; {advice}");
        self.warned = Some(Instant::now());
    }
}

/// A message about the first of these objects that scales the object `name` of the kind `kind`. Pure.
fn owner(
    name: &ScalableName,
    kind: &str,
    scaled: &[DynamicObject],
    autoscalers: &[HorizontalPodAutoscaler],
) -> Option<String> {
    let own_group = name.type_.path().0;
    // The version may differ: one object can be read in several versions.
    let is_target = |api_version: &str, kind_: &str, target: &str| {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        group == own_group && kind_ == kind && target == name.name
    };
    let scaled = scaled.iter().find(|object| {
        let field = |field: &str| object.data.pointer(&format!("/spec/scaleTargetRef/{field}"))?.as_str();
        // KEDA takes a target without a kind for a Deployment, and one without an API version for one of apps/v1.
        is_target(
            field("apiVersion").unwrap_or("apps/v1"),
            field("kind").unwrap_or("Deployment"),
            field("name").unwrap_or_default(),
        )
    });
    let autoscaler = autoscalers.iter().find(|object| {
        object.spec.as_ref().is_some_and(|spec| {
            let target = &spec.scale_target_ref;
            // The HPA of a target without an API version cannot find it, and would not scale it.
            is_target(target.api_version.as_deref().unwrap_or_default(), &target.kind, &target.name)
        })
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
    fn an_autoscaler_of_the_same_object_owns_it() {
        let name: ScalableName = "deployment:shop/replica".parse().expect("the text is well formed");
        let object =
            |api_version: &str, kind: &str, name: &str| json!({"apiVersion": api_version, "kind": kind, "name": name});
        let same = || object("apps/v1", "Deployment", "replica");
        let other = || object("apps/v1", "Deployment", "other");
        let set = || object("apps/v1", "StatefulSet", "replica");
        let foreign = || object("example.com/v1", "Deployment", "replica");
        for (scaled, autoscalers, expected) in [
            (vec![], vec![], ""),
            (vec![("a", other()), ("b", set())], vec![("c", other()), ("d", set())], ""),
            (vec![("a", foreign())], vec![("b", foreign())], ""),
            (vec![], vec![("c", other()), ("d", same())], "HorizontalPodAutoscaler shop/d"),
            (vec![], vec![("d", object("apps/v1beta1", "Deployment", "replica"))], "HorizontalPodAutoscaler shop/d"),
            (vec![("a", json!({"name": "replica"}))], vec![], "ScaledObject shop/a"),
            (vec![("a", same())], vec![("keda-hpa-a", same())], "ScaledObject shop/a"),
        ] {
            let found = owner(&name, "Deployment", &objects(&scaled), &objects(&autoscalers)).unwrap_or_default();
            assert_eq!(found.split(" scales").next(), Some(expected));
        }
        let name: ScalableName = "scale:example.com/v1/widgets:shop/replica".parse().expect("the text is well formed");
        let widget = || object("example.com/v2", "Widget", "replica");
        for (target, is_owned) in
            [(widget(), true), (object("other.com/v1", "Widget", "replica"), false), (same(), false)]
        {
            let found = owner(&name, "Widget", &[], &objects(&[("a", target.clone())]));
            assert_eq!(found.is_some(), is_owned, "{target}");
        }
    }

    #[test]
    fn an_autoscaler_that_keda_has_made_names_its_scaled_object() {
        let name: ScalableName = "deployment:shop/replica".parse().expect("the text is well formed");
        let same = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "replica"});
        // The ScaledObject was created after ScaledObjects and before autoscalers were listed.
        let mut autoscalers: Vec<HorizontalPodAutoscaler> = objects(&[("keda-hpa-a", same)]);
        let maker = json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "a", "uid": "1"}]);
        autoscalers[0].metadata.owner_references = serde_json::from_value(maker).expect("owner references");
        let found = owner(&name, "Deployment", &[], &autoscalers).expect("an owner");
        assert!(found.starts_with("ScaledObject shop/a scales"), "{found}");
    }
}

//! An object that can be scaled, read from the object itself and, if only the API server knows its fields, from its
//! subresource `scale`. Pure.

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::DynamicObject;
use kube::core::Selector;
use kubernetes::name::ScalableType;
use serde_json::Value;

/// The parts of an object that matter for scaling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalable {
    /// The desired replicas.
    pub desired: usize,
    /// The selector of its pods, as the API server takes it in a query.
    pub selector: String,
    /// The reason why the object's controller cannot create pods, such as a quota; `None` if it can.
    pub failure: Option<String>,
    /// Whether its controller is replacing pods that still have an old template.
    pub is_rollout: bool,
    /// Whether a pod is created only after the one before it is ready.
    pub is_ordered: bool,
}

impl Scalable {
    /// Whether the replicas and the selector of objects of this type are read from their subresource `scale`. The fields
    /// of other objects are unknown, and a Rollout may take its selector from a Deployment.
    pub fn needs_scale(type_: &ScalableType) -> bool {
        matches!(type_, ScalableType::Rollout | ScalableType::Other { .. })
    }

    /// Reads `object`, which has the type `type_`. `scale` is its subresource; `None` for a type that
    /// [does not need it](Self::needs_scale).
    ///
    /// # Errors
    /// If the object does not say which pods belong to it.
    pub fn new(type_: &ScalableType, object: &DynamicObject, scale: Option<&Scale>) -> Result<Self, String> {
        let (spec, status) = (&object.data["spec"], &object.data["status"]);
        let (replicas, selector) = match scale {
            Some(scale) => {
                let selector = scale.status.as_ref().and_then(|status| status.selector.clone());
                (scale.spec.as_ref().and_then(|spec| spec.replicas).map(i64::from), Ok(selector))
            }
            None => (spec["replicas"].as_i64(), selector(&spec["selector"])),
        };
        // An empty selector would select all pods of the namespace.
        let selector = selector.map_err(|error| format!("its selector is invalid ({error}); correct it"))?;
        let selector = selector.filter(|selector| !selector.trim().is_empty()).ok_or(
            "it has no selector; if it is a custom resource, its definition must name one (labelSelectorPath)",
        )?;
        Ok(Self {
            // One, if the object gives no number (documentation of DeploymentSpec and StatefulSetSpec). The API leaves
            // out a zero in a scale.
            desired: usize::try_from(replicas.unwrap_or(i64::from(scale.is_none()))).unwrap_or_default(),
            selector,
            failure: failure(status),
            is_rollout: is_rollout(type_, spec, status),
            is_ordered: *type_ == ScalableType::StatefulSet && spec["podManagementPolicy"] != "Parallel",
        })
    }
}

fn selector(selector: &Value) -> Result<Option<String>, String> {
    if selector.is_null() {
        return Ok(None);
    }
    let selector: LabelSelector = serde_json::from_value(selector.clone()).map_err(|error| error.to_string())?;
    let selector: Selector =
        selector.try_into().map_err(|error: kube::core::ParseExpressionError| error.to_string())?;
    Ok(Some(selector.to_string()))
}

fn failure(status: &Value) -> Option<String> {
    let conditions = status["conditions"].as_array()?;
    let failure = conditions.iter().find(|found| found["type"] == "ReplicaFailure" && found["status"] == "True")?;
    Some(failure["message"].as_str().unwrap_or("pods cannot be created").to_owned())
}

/// Whether pods are being replaced by those of a new template. Only an update that proceeds counts: a part of the pods may
/// keep the old template for days, for example those of a StatefulSet with a partition.
fn is_rollout(type_: &ScalableType, spec: &Value, status: &Value) -> bool {
    let strategy = &spec["updateStrategy"];
    let (proceeds, kept) = match type_ {
        ScalableType::StatefulSet => {
            let partition = strategy["rollingUpdate"]["partition"].as_i64().unwrap_or_default();
            (strategy["type"] != "OnDelete", partition)
        }
        // Otherwise the Rollout is paused, for example at a step of a canary, or its update has failed.
        ScalableType::Rollout => (status["phase"] == "Progressing", 0),
        ScalableType::Deployment | ScalableType::Other { .. } => (true, 0),
    };
    let updated = match (status["updatedReplicas"].as_i64(), type_) {
        (Some(updated), _) => updated,
        // A type of another author may not count its updated replicas at all.
        (None, ScalableType::Other { .. }) => return false,
        // The API leaves out numbers that are zero.
        (None, _) => 0,
    };
    proceeds && updated < status["replicas"].as_i64().unwrap_or_default().saturating_sub(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(flag: &str, object: Value, scale: Option<Value>) -> Result<Scalable, String> {
        let name: kubernetes::name::ScalableName = format!("{flag}:shop/a").parse().expect("the text is well formed");
        let object = serde_json::from_value(object).expect("the JSON is an object");
        let scale: Option<Scale> = scale.map(|scale| serde_json::from_value(scale).expect("the JSON is a scale"));
        assert_eq!(Scalable::needs_scale(&name.type_), scale.is_some());
        Scalable::new(&name.type_, &object, scale.as_ref())
    }

    #[test]
    fn replicas_and_selector_come_from_the_object_or_from_its_scale() {
        let labels = json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]});
        let object = |spec: Value, status: Value| json!({"metadata": {"name": "a"}, "spec": spec, "status": status});
        let found = read("deployment", object(json!({"replicas": 3, "selector": labels}), json!({})), None);
        let expected =
            Scalable { desired: 3, selector: "app=a,b".into(), failure: None, is_rollout: false, is_ordered: false };
        assert_eq!(found, Ok(expected.clone()));
        let found = read("statefulset", object(json!({"selector": labels}), json!({})), None);
        assert_eq!(found, Ok(Scalable { desired: 1, is_ordered: true, ..expected.clone() }));
        let parallel = json!({"podManagementPolicy": "Parallel", "replicas": 3, "selector": labels});
        assert_eq!(read("statefulset", object(parallel, json!({})), None), Ok(expected.clone()));
        let scale = |replicas: Value| {
            Some(json!({"spec": {"replicas": replicas}, "status": {"replicas": 1, "selector": "app=a,b"}}))
        };
        for type_ in ["rollout", "scale:example.com/v1/widgets"] {
            let found = read(type_, object(json!({"size": 9}), json!({})), scale(json!(3)));
            assert_eq!(found, Ok(expected.clone()), "{type_}");
            let found = read(type_, object(json!({}), json!({})), scale(json!(null)));
            assert_eq!(found.map(|found| found.desired), Ok(0), "the API leaves out zero");
        }
        for (type_, spec, scale) in [
            ("deployment", json!({}), None),
            ("deployment", json!({"selector": {}}), None),
            ("deployment", json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}), None),
            ("scale:example.com/v1/widgets", json!({}), Some(json!({"status": {"replicas": 1}}))),
        ] {
            let error = read(type_, object(spec.clone(), json!({})), scale).expect_err("there is no selector");
            assert!(error.contains("selector"), "{spec}: {error}");
        }
    }

    #[test]
    fn the_status_tells_a_rollout_and_a_failure() {
        let quota = json!([{"type": "Progressing", "status": "True"},
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]);
        let well = json!([{"type": "ReplicaFailure", "status": "False", "message": "exceeded quota"}]);
        for (status, is_rollout, failure) in [
            (json!({}), false, None),
            (json!({"replicas": 3, "updatedReplicas": 3, "conditions": well}), false, None),
            (json!({"replicas": 3, "updatedReplicas": 1}), true, None),
            (json!({"replicas": 3}), true, None),
            (json!({"conditions": quota}), false, Some("exceeded quota")),
        ] {
            let object = json!({"metadata": {}, "spec": {"selector": {"matchLabels": {"app": "a"}}}, "status": status});
            for type_ in ["deployment", "statefulset"] {
                let found = read(type_, object.clone(), None).expect("there is a selector");
                assert_eq!((found.is_rollout, found.failure.as_deref()), (is_rollout, failure), "{status}");
            }
        }
        for (strategy, replicas, updated, is_rollout) in [
            (json!({"type": "RollingUpdate"}), 5, 2, true),
            (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}), 5, 4, true),
            (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}), 5, 1, true),
            // The pods 0 to 2 keep the old template until a user lowers the partition.
            (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}), 5, 2, false),
            (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 9}}), 5, 0, false),
            // Pods get the new template when a user deletes them.
            (json!({"type": "OnDelete"}), 5, 2, false),
        ] {
            let spec = json!({"selector": {"matchLabels": {"app": "a"}}, "updateStrategy": strategy});
            let status = json!({"replicas": replicas, "updatedReplicas": updated});
            let object = json!({"metadata": {}, "spec": spec, "status": status});
            let found = read("statefulset", object, None).expect("there is a selector");
            assert_eq!(found.is_rollout, is_rollout, "{strategy}, {updated} of {replicas}");
        }
        let scale = Some(json!({"status": {"replicas": 3, "selector": "app=a"}}));
        for (phase, updated, is_rollout) in [
            (json!("Progressing"), 1, true),
            (json!("Progressing"), 3, false),
            (json!("Paused"), 1, false),
            (json!("Degraded"), 1, false),
            (json!("Healthy"), 1, false),
            (json!(null), 1, false),
        ] {
            let status = json!({"phase": phase, "replicas": 3, "updatedReplicas": updated});
            let object = json!({"metadata": {}, "status": status});
            let found = read("rollout", object, scale.clone()).expect("there is a selector");
            assert_eq!(found.is_rollout, is_rollout, "{phase}, {updated} updated");
        }
        for (status, is_rollout) in
            [(json!({"replicas": 3}), false), (json!({"replicas": 3, "updatedReplicas": 2}), true)]
        {
            let object = json!({"metadata": {}, "status": status});
            let found = read("scale:example.com/v1/widgets", object, scale.clone()).expect("there is a selector");
            assert_eq!(found.is_rollout, is_rollout, "{status}");
        }
    }
}

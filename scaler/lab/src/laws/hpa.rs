//! A HorizontalPodAutoscaler of a cluster, as bounds and parameters of the law `cpu`. Pure.
//!
//! Source of defaults and of bounds: Kubernetes 1.36, pkg/apis/autoscaling.

use super::behavior::{Behavior, MAX_PERIOD, MAX_WINDOW, PolicyValue, ScalingPolicy, ScalingRules, SelectPolicy};
use super::cpu::{CpuParameters, CpuTarget};
use kubernetes::quantity;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use std::time::Duration;

/// The target utilisation of an HPA without metrics, in per cent.
const DEFAULT_UTILIZATION: u32 = 80;

/// The most replicas that an HPA may have here, as with `--max`.
const MAX_REPLICAS: i64 = 100_000;

/// The largest number of metrics and of policies in one direction that is accepted. Each costs time in every decision.
const MAX_ITEMS: usize = 100;

/// The annotations with which `autoscaling/v1` has fields of later versions begin like this.
const ANNOTATIONS: &str = "autoscaling.alpha.kubernetes.io/";

/// The specification of an HPA on CPU usage.
#[derive(Debug, Clone, PartialEq)]
pub struct Hpa {
    /// The fewest replicas: `minReplicas`.
    pub min: usize,
    /// The most replicas: `maxReplicas`.
    pub max: usize,
    /// The targets and the behavior.
    pub parameters: CpuParameters,
}

/// The reason why an object cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The object, which is another one.
    #[error(
        "the object is {0}, not a HorizontalPodAutoscaler of autoscaling/v2, v2beta2 or v1; give such an object, as \
         kubectl get hpa.v2.autoscaling NAME -o yaml prints it"
    )]
    Object(String),
    /// The specification, which has a wrong type or an unknown field. The value is the reason.
    #[error("spec cannot be read: {0}")]
    Form(String),
    /// A metric that the lab does not have.
    #[error(
        "spec.metrics has {0}; a replay knows the processor use of pods only: give an HPA with metrics of the type \
         Resource, the name cpu, and averageUtilization or averageValue"
    )]
    Metric(String),
    /// Fields of a later version in annotations of `autoscaling/v1`.
    #[error("the annotation {0} has fields that autoscaling/v1 lacks; give the object as autoscaling/v2")]
    Annotation(String),
    /// A value that Kubernetes does not accept.
    #[error("{field} is {value}, but must be {accepted}")]
    Range {
        /// The path of the field.
        field: String,
        /// The value.
        value: String,
        /// The accepted values, in words.
        accepted: String,
    },
}

impl Hpa {
    /// The HPA that this object specifies. Fields that are left out have Kubernetes' defaults.
    ///
    /// # Errors
    /// If the object is none of an HPA, has a metric other than the CPU usage of pods, or a value is out of range.
    pub fn of(object: &Value) -> Result<Self, Error> {
        let text = |field: &str| object[field].as_str().unwrap_or("without one").chars().take(80).collect::<String>();
        let (kind, version) = (text("kind"), text("apiVersion"));
        match (kind.as_str(), version.as_str()) {
            ("HorizontalPodAutoscaler", "autoscaling/v2" | "autoscaling/v2beta2") => {
                let spec: Spec = read(&object["spec"])?;
                spec.hpa()
            }
            ("HorizontalPodAutoscaler", "autoscaling/v1") => {
                let annotations = object["metadata"]["annotations"].as_object();
                let lost = |name: &&String| {
                    name.strip_prefix(ANNOTATIONS).is_some_and(|name| name == "metrics" || name == "behavior")
                };
                if let Some(name) = annotations.into_iter().flat_map(|all| all.keys()).find(lost) {
                    return Err(Error::Annotation(name.clone()));
                }
                let SpecV1 { min_replicas, max_replicas, target, .. } = read(&object["spec"])?;
                let (min, max) = bounds(min_replicas, max_replicas)?;
                let target = target.unwrap_or(i64::from(DEFAULT_UTILIZATION));
                let targets = vec![utilization("spec.targetCPUUtilizationPercentage", target)?];
                Ok(Self { min, max, parameters: CpuParameters { targets, behavior: None } })
            }
            _ => Err(Error::Object(format!("a {kind} of {version}"))),
        }
    }
}

fn read<T: DeserializeOwned>(spec: &Value) -> Result<T, Error> {
    T::deserialize(spec).map_err(|error| Error::Form(error.to_string().chars().take(300).collect()))
}

/// `spec` of `autoscaling/v1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpecV1 {
    #[serde(rename = "scaleTargetRef")]
    _scaled: Option<IgnoredAny>,
    min_replicas: Option<i64>,
    max_replicas: i64,
    #[serde(rename = "targetCPUUtilizationPercentage")]
    target: Option<i64>,
}

/// `spec` of `autoscaling/v2` and `autoscaling/v2beta2`. An unknown field is an error, as the replay would not honour it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(rename = "scaleTargetRef")]
    _scaled: Option<IgnoredAny>,
    min_replicas: Option<i64>,
    max_replicas: i64,
    metrics: Option<Vec<Metric>>,
    behavior: Option<BehaviorSpec>,
}

#[derive(Deserialize)]
struct Metric {
    #[serde(rename = "type")]
    type_: String,
    resource: Option<Resource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: String,
    target: Target,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Target {
    #[serde(rename = "type")]
    type_: String,
    average_utilization: Option<i64>,
    /// A quantity: a text, or in YAML a number.
    average_value: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BehaviorSpec {
    scale_up: Option<RulesSpec>,
    scale_down: Option<RulesSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RulesSpec {
    stabilization_window_seconds: Option<i64>,
    select_policy: Option<String>,
    policies: Option<Vec<PolicySpec>>,
    /// A quantity: a text, or in YAML a number.
    tolerance: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicySpec {
    #[serde(rename = "type")]
    type_: String,
    value: i64,
    period_seconds: i64,
}

impl Spec {
    fn hpa(self) -> Result<Hpa, Error> {
        let (min, max) = bounds(self.min_replicas, self.max_replicas)?;
        let metrics = self.metrics.unwrap_or_default();
        within("the number of spec.metrics", metrics.len() as i64, 0, MAX_ITEMS as i64)?;
        let targets = match metrics.is_empty() {
            true => vec![CpuTarget::Utilization(DEFAULT_UTILIZATION)],
            false => metrics.iter().map(Metric::target).collect::<Result<_, _>>()?,
        };
        let behavior = self.behavior.map(BehaviorSpec::behavior).transpose()?;
        Ok(Hpa { min, max, parameters: CpuParameters { targets, behavior } })
    }
}

impl Metric {
    fn target(&self) -> Result<CpuTarget, Error> {
        let quoted = |text: &str| text.chars().take(40).collect::<String>();
        let Some(Resource { name, target }) = self.resource.as_ref().filter(|_| self.type_ == "Resource") else {
            return Err(Error::Metric(format!("one of the type {:?}", quoted(&self.type_))));
        };
        if name != "cpu" {
            return Err(Error::Metric(format!("the resource {:?}", quoted(name))));
        }
        match (target.type_.as_str(), target.average_utilization, &target.average_value) {
            ("Utilization", Some(percent), None) => utilization("averageUtilization", percent),
            ("AverageValue", None, Some(value)) => {
                let cores = quantity_text(value).and_then(|text| quantity::cores(&text)).filter(|&cores| cores > 0.0);
                cores.map(CpuTarget::AverageValue).ok_or_else(|| Error::Range {
                    field: "averageValue".into(),
                    value: quoted(&value.to_string()),
                    accepted: "a number of cores above 0, such as 350m".into(),
                })
            }
            (type_, ..) => Err(Error::Metric(format!("a target of the type {:?} without its value", quoted(type_)))),
        }
    }
}

/// The fewest and the most replicas.
fn bounds(min: Option<i64>, max: i64) -> Result<(usize, usize), Error> {
    let max = within("spec.maxReplicas", max, 1, MAX_REPLICAS)?;
    // 0 is for other metrics only: without pods, there is no processor use.
    let min = within("spec.minReplicas", min.unwrap_or(1), 1, max)?;
    Ok((min as usize, max as usize))
}

fn utilization(field: &str, percent: i64) -> Result<CpuTarget, Error> {
    within(field, percent, 1, i64::from(i32::MAX)).map(|percent| CpuTarget::Utilization(percent as u32))
}

impl BehaviorSpec {
    fn behavior(self) -> Result<Behavior, Error> {
        let Behavior { up, down } = Behavior::default();
        let with = |given: Option<RulesSpec>, default: ScalingRules, field: &str| match given {
            Some(given) => given.rules(default, field),
            None => Ok(default),
        };
        Ok(Behavior {
            up: with(self.scale_up, up, "spec.behavior.scaleUp")?,
            down: with(self.scale_down, down, "spec.behavior.scaleDown")?,
        })
    }
}

impl RulesSpec {
    fn rules(self, default: ScalingRules, field: &str) -> Result<ScalingRules, Error> {
        let window = match self.stabilization_window_seconds {
            Some(seconds) => seconds_within(&format!("{field}.stabilizationWindowSeconds"), seconds, 0, MAX_WINDOW)?,
            None => default.window,
        };
        let select = match self.select_policy.as_deref() {
            None => default.select,
            Some("Max") => SelectPolicy::Max,
            Some("Min") => SelectPolicy::Min,
            Some("Disabled") => SelectPolicy::Disabled,
            Some(other) => {
                return Err(Error::Range {
                    field: format!("{field}.selectPolicy"),
                    value: format!("{:?}", other.chars().take(40).collect::<String>()),
                    accepted: "Max, Min or Disabled".into(),
                });
            }
        };
        let policies = match self.policies {
            None => default.policies,
            Some(policies) => {
                within(&format!("the number of {field}.policies"), policies.len() as i64, 1, MAX_ITEMS as i64)?;
                policies.into_iter().map(|policy| policy.policy(field)).collect::<Result<_, _>>()?
            }
        };
        let tolerance = match self.tolerance {
            None => default.tolerance,
            Some(value) => quantity_text(&value).and_then(|text| quantity::number(&text)).ok_or_else(|| {
                let value = value.to_string().chars().take(40).collect();
                Error::Range { field: format!("{field}.tolerance"), value, accepted: "a quantity, such as 0.05".into() }
            })?,
        };
        Ok(ScalingRules { window, select, policies, tolerance })
    }
}

impl PolicySpec {
    fn policy(self, field: &str) -> Result<ScalingPolicy, Error> {
        let value = within(&format!("{field}.policies.value"), self.value, 1, i64::from(i32::MAX))? as u32;
        let period = seconds_within(&format!("{field}.policies.periodSeconds"), self.period_seconds, 1, MAX_PERIOD)?;
        let value = match self.type_.as_str() {
            "Pods" => PolicyValue::Pods(value),
            "Percent" => PolicyValue::Percent(value),
            other => {
                return Err(Error::Range {
                    field: format!("{field}.policies.type"),
                    value: format!("{:?}", other.chars().take(40).collect::<String>()),
                    accepted: "Pods or Percent".into(),
                });
            }
        };
        Ok(ScalingPolicy { value, period })
    }
}

fn within(field: &str, value: i64, least: i64, most: i64) -> Result<i64, Error> {
    (least..=most).contains(&value).then_some(value).ok_or_else(|| Error::Range {
        field: field.into(),
        value: value.to_string(),
        accepted: format!("{least} to {most}"),
    })
}

fn seconds_within(field: &str, seconds: i64, least: i64, most: Duration) -> Result<Duration, Error> {
    within(field, seconds, least, most.as_secs() as i64).map(|seconds| Duration::from_secs(seconds as u64))
}

/// A quantity as text. YAML may have it as a number.
fn quantity_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(version: &str, spec: Value) -> Value {
        json!({"apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "replica"}, "spec": spec})
    }

    fn utilization_metric(percent: Value) -> Value {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    }

    /// An HPA with this behavior.
    fn with_behavior(behavior: Value) -> Value {
        let metrics = [utilization_metric(json!(70))];
        object("autoscaling/v2", json!({"maxReplicas": 9, "metrics": metrics, "behavior": behavior}))
    }

    #[test]
    fn parts_that_are_unset_have_the_defaults_of_kubernetes() {
        let of = |object: &Value| Hpa::of(object).expect("it can be replayed");
        let shipped = |percent| CpuParameters { targets: vec![CpuTarget::Utilization(percent)], behavior: None };
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "replica"});
        let v1 = json!({"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50});
        assert_eq!(of(&object("autoscaling/v1", v1)), Hpa { min: 2, max: 3, parameters: shipped(50) });
        for version in ["autoscaling/v1", "autoscaling/v2beta2", "autoscaling/v2"] {
            let hpa = of(&object(version, json!({"maxReplicas": 9})));
            assert_eq!(hpa, Hpa { min: 1, max: 9, parameters: shipped(80) }, "{version}");
        }
        for behavior in [json!({}), json!({"scaleUp": null}), json!({"scaleUp": {}, "scaleDown": {}})] {
            let parameters = of(&with_behavior(behavior)).parameters;
            assert_eq!(parameters, CpuParameters { behavior: Some(Behavior::default()), ..shipped(70) });
        }
    }

    #[test]
    fn behaviors_have_all_rules_of_kubernetes() {
        for (behavior, expected) in [
            (json!({"scaleDown": {"stabilizationWindowSeconds": 60}}), "down=1m"),
            (json!({"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled"}}), "up=disabled"),
            (
                json!({"scaleUp": {"selectPolicy": "Min", "policies": [
                    {"type": "Pods", "value": 2, "periodSeconds": 60},
                    {"type": "Percent", "value": 50, "periodSeconds": 1800}]}}),
                "up=2@1m/50%@30m/min",
            ),
            (
                json!({"scaleUp": {"tolerance": "50m"}, "scaleDown": {"tolerance": 0}}),
                "up=tolerance=0.05:down=tolerance=0",
            ),
        ] {
            let behavior = Hpa::of(&with_behavior(behavior)).expect("it can be replayed").parameters.behavior;
            assert_eq!(behavior.expect("it is set").to_string(), expected);
        }
    }

    #[test]
    fn several_metrics_are_several_targets() {
        let value = |value: Value| {
            let target = json!({"type": "AverageValue", "averageValue": value});
            json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
        };
        let metrics = [utilization_metric(json!(60)), value(json!("350m")), value(json!(2))];
        let hpa = Hpa::of(&object("autoscaling/v2", json!({"maxReplicas": 9, "metrics": metrics})));
        let expected = [CpuTarget::Utilization(60), CpuTarget::AverageValue(0.35), CpuTarget::AverageValue(2.0)];
        assert_eq!(hpa.expect("it can be replayed").parameters.targets, expected);
    }

    #[test]
    fn errors_name_the_field_and_say_what_is_supported() {
        let v2 = |spec: Value| object("autoscaling/v2", spec);
        let metric = |metric: Value| v2(json!({"maxReplicas": 9, "metrics": [metric]}));
        let resource = |name: &str, target: Value| {
            metric(json!({"type": "Resource", "resource": {"name": name, "target": target}}))
        };
        let up = |rules: Value| with_behavior(json!({"scaleUp": rules}));
        let policy = |policy: Value| up(json!({"policies": [policy]}));
        let mut annotated = object("autoscaling/v1", json!({"maxReplicas": 9}));
        annotated["metadata"]["annotations"] = json!({"autoscaling.alpha.kubernetes.io/behavior": "{}"});
        let half = json!({"type": "Utilization", "averageUtilization": 50});
        for (object, words) in [
            (json!(null), &["without one", "kubectl get hpa.v2"][..]),
            (json!([1]), &["without one"]),
            (json!({"apiVersion": "apps/v1", "kind": "Deployment"}), &["a Deployment of apps/v1"]),
            (object("autoscaling/v2beta1", json!({})), &["autoscaling/v2beta1"]),
            (v2(json!(null)), &["spec cannot be read"]),
            (v2(json!({})), &["maxReplicas"]),
            (v2(json!({"maxReplicas": "9"})), &["spec cannot be read"]),
            (v2(json!({"maxReplicas": 0})), &["spec.maxReplicas is 0", "1 to 100000"]),
            (v2(json!({"maxReplicas": 100_001})), &["spec.maxReplicas is 100001"]),
            (v2(json!({"maxReplicas": 2, "minReplicas": 3})), &["spec.minReplicas is 3", "1 to 2"]),
            (v2(json!({"maxReplicas": 2, "minReplicas": 0})), &["spec.minReplicas is 0"]),
            (v2(json!({"maxReplicas": 2, "speed": 3})), &["speed"]),
            (
                v2(json!({"maxReplicas": 2, "metrics": vec![utilization_metric(json!(50)); 101]})),
                &["number of spec.metrics is 101"],
            ),
            (object("autoscaling/v1", json!({"maxReplicas": 2, "behavior": {}})), &["behavior"]),
            (
                object("autoscaling/v1", json!({"maxReplicas": 2, "targetCPUUtilizationPercentage": 0})),
                &["targetCPUUtilizationPercentage is 0"],
            ),
            (annotated, &["autoscaling.alpha.kubernetes.io/behavior", "autoscaling/v2"]),
            (metric(json!({"type": "External", "external": {}})), &["\"External\"", "averageUtilization"]),
            (metric(json!({"type": "Pods", "pods": {}})), &["\"Pods\""]),
            (metric(json!({"type": "Object", "object": {}})), &["\"Object\""]),
            (metric(json!({"type": "ContainerResource", "containerResource": {}})), &["\"ContainerResource\""]),
            (metric(json!({"type": "Resource"})), &["\"Resource\""]),
            (resource("memory", half), &["\"memory\"", "name cpu"]),
            (resource("cpu", json!({"type": "Value"})), &["\"Value\""]),
            (resource("cpu", json!({"type": "Utilization"})), &["\"Utilization\" without its value"]),
            (metric(utilization_metric(json!(0))), &["averageUtilization is 0"]),
            (resource("cpu", json!({"type": "AverageValue", "averageValue": "1Gi"})), &["averageValue", "350m"]),
            (resource("cpu", json!({"type": "AverageValue", "averageValue": "0"})), &["averageValue"]),
            (resource("cpu", json!({"type": "AverageValue", "averageValue": []})), &["averageValue"]),
            (with_behavior(json!({"scaleSideways": {}})), &["scaleSideways"]),
            (up(json!({"stabilizationWindowSeconds": 3601})), &["scaleUp.stabilizationWindowSeconds", "0 to 3600"]),
            (up(json!({"stabilizationWindowSeconds": -1})), &["stabilizationWindowSeconds is -1"]),
            (up(json!({"selectPolicy": "Most"})), &["scaleUp.selectPolicy", "Max, Min or Disabled"]),
            (up(json!({"policies": []})), &["number of spec.behavior.scaleUp.policies is 0"]),
            (up(json!({"tolerance": "-0.1"})), &["scaleUp.tolerance"]),
            (up(json!({"tolerance": "much"})), &["scaleUp.tolerance"]),
            (policy(json!({"type": "Pods", "value": 0, "periodSeconds": 15})), &["policies.value is 0"]),
            (policy(json!({"type": "Pods", "value": 1, "periodSeconds": 0})), &["policies.periodSeconds is 0"]),
            (policy(json!({"type": "Pods", "value": 1, "periodSeconds": 1801})), &["1 to 1800"]),
            (policy(json!({"type": "Nodes", "value": 1, "periodSeconds": 15})), &["\"Nodes\"", "Pods or Percent"]),
        ] {
            let error = Hpa::of(&object).expect_err("refused").to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{object}: {error}");
            assert!(error.len() < 600, "{error}");
        }
    }
}

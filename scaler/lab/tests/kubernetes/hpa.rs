//! HorizontalPodAutoscalers are read in any version that the API server has.

use crate::control_plane::{control_plane, namespace};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use kubernetes::name::ObjectName;
use lab::backtest::hpa_reader;
use lab::laws::LawChoice;
use lab::laws::hpa::Hpa;
use serde_json::{Value, json};

/// Applies an HPA of the Deployment `replica`, in the newest version with `behavior` that the API server has.
async fn apply(client: &Client, name: &str, metrics: Value, behavior: Value) {
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "replica"});
    let mut last = None;
    for version in ["v2", "v2beta2"] {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("autoscaling", version, "HorizontalPodAutoscaler"));
        let spec = json!({"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 7, "metrics": metrics,
            "behavior": behavior});
        let object = json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name}, "spec": spec});
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), "hpa", &kind);
        match api.patch(name, &PatchParams::apply("test"), &Patch::Apply(object)).await {
            Ok(_) => return,
            Err(error) => last = Some(error),
        }
    }
    panic!("apply the HPA {name}: {last:?}");
}

fn cpu(target: Value) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}])
}

async fn read(client: &Client, name: &str) -> Result<(String, Hpa), String> {
    let name: ObjectName = format!("hpa/{name}").parse().expect("the name is valid");
    match hpa_reader::read(client, &name).await {
        Ok(LawChoice::Hpa(name, hpa)) => Ok((name, hpa)),
        Ok(other) => panic!("{other} is no HPA"),
        Err(error) => Err(format!("{error:#}")),
    }
}

#[tokio::test]
async fn an_hpa_is_read_with_its_bounds_its_targets_and_its_behavior() {
    let Some(control_plane) = control_plane() else { return };
    let client = control_plane.client().await;
    namespace(&client, "hpa").await;
    let half = || cpu(json!({"type": "Utilization", "averageUtilization": 50}));

    apply(&client, "shipped", half(), json!(null)).await;
    let (name, hpa) = read(&client, "shipped").await.expect("it can be replayed");
    assert_eq!((name.as_str(), hpa.min, hpa.max), ("hpa hpa/shipped", 2, 7));
    assert_eq!(hpa.parameters.to_string(), "50 % of the requested cores");

    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 60},
        "scaleUp": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 2, "periodSeconds": 30}]}});
    apply(&client, "tuned", half(), behavior).await;
    let (_, hpa) = read(&client, "tuned").await.expect("it can be replayed");
    assert_eq!(hpa.parameters.to_string(), "50 % of the requested cores, up=2@30s/min:down=1m");

    apply(&client, "value", cpu(json!({"type": "AverageValue", "averageValue": "350m"})), json!(null)).await;
    let (_, hpa) = read(&client, "value").await.expect("it can be replayed");
    assert_eq!(hpa.parameters.to_string(), "0.35 cores for each pod");

    let external = json!([{"type": "External", "external": {"metric": {"name": "queue"},
        "target": {"type": "Value", "value": "5"}}}]);
    apply(&client, "external", external, json!(null)).await;
    for (name, words) in [
        ("external", &["\"External\"", "averageUtilization"][..]),
        ("gone", &["\"gone\" not found (HTTP 404)", "kubectl get hpa --namespace hpa"]),
    ] {
        let error = read(&client, name).await.expect_err("refused");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    let stranger = control_plane.client_of("stranger").await;
    let error = read(&stranger, "shipped").await.expect_err("forbidden");
    assert!(
        error.contains("HTTP 403") && error.contains("get horizontalpodautoscalers in the namespace hpa"),
        "{error}"
    );

    let mut proxy = control_plane.proxy().await;
    let interrupted = control_plane.client_through(&proxy).await;
    proxy.interrupt();
    let error = read(&interrupted, "shipped").await.expect_err("unreachable");
    assert!(error.contains("the API server does not answer"), "{error}");
}

//! PURE: pods as the law `cpu` sees them, from the API's objects and from what they were seen to use.

use super::metrics::Sample;
use super::pods::condition;
use super::quantity;
use crate::policy::{self, Stage, Usage};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Those that are neither being deleted nor failed. Ages are by the clock whose `now` this is; what an object dates later
/// than that has just happened.
///
/// # Errors
/// When one does not say how much of a processor it requests: utilisation is a share of that. In words, with what to do.
pub fn pods(
    pods: &[impl Borrow<Pod>],
    samples: &BTreeMap<String, Sample>,
    now: Timestamp,
) -> Result<Vec<policy::Pod>, String> {
    pods.iter()
        .map(Borrow::borrow)
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && status(pod) != Some("Failed"))
        .map(|pod| {
            let usage = samples.get(&pod.name_any()).map(|sample| Usage {
                cores: sample.cores,
                age: since(sample.ended, now),
                window: sample.window,
            });
            Ok(policy::Pod { age: age(pod, now), stage: stage(pod, now), request: request(pod)?, usage })
        })
        .collect()
}

fn status(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or_default()
}

/// Since a node took it on, as the HPA counts.
fn age(pod: &Pod, now: Timestamp) -> Duration {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.or(pod.metadata.creation_timestamp.as_ref()).map(|then| since(then.0, now)).unwrap_or_default()
}

fn stage(pod: &Pod, now: Timestamp) -> Stage {
    let is_placed = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    let Some(ready) = condition(pod, "Ready").filter(|_| is_placed && status(pod) != Some("Pending")) else {
        return Stage::Pending;
    };
    let changed = ready.last_transition_time.as_ref().map_or_else(|| age(pod, now), |then| since(then.0, now));
    // While its node is silent that is unknown, and it counts as before.
    if ready.status == "False" { Stage::Unready(changed) } else { Stage::Ready(changed) }
}

/// Cores: the whole pod's, or those of all containers that run as long as it does.
fn request(pod: &Pod) -> Result<f64, String> {
    let wrong = |what: String| {
        format!("{what} of pod {}: give it resources.requests.cpu, a share of which the law cpu holds", pod.name_any())
    };
    let cpu = |resources: &Option<ResourceRequirements>| {
        let requests = resources.as_ref()?.requests.as_ref()?;
        requests.get("cpu").map(|quantity| quantity.0.clone())
    };
    let read = |text: String| quantity::cores(&text).ok_or_else(|| wrong(format!("{text:?} is no request")));
    let spec = pod.spec.as_ref().ok_or_else(|| wrong("there is no specification".into()))?;
    if let Some(whole) = cpu(&spec.resources) {
        return read(whole);
    }
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let mut cores = 0.0;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(stays)) {
        let text = cpu(&container.resources)
            .ok_or_else(|| wrong(format!("no processor is requested for container {}", container.name)))?;
        cores += read(text)?;
    }
    // Nothing is a share of nothing.
    if cores > 0.0 { Ok(cores) } else { Err(wrong("no processor is requested for any container".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn time(second: u64) -> String {
        format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60)
    }

    fn container(name: &str, cpu: Option<&str>) -> Value {
        let requests = cpu.map(|cpu| json!({"cpu": cpu, "memory": "1Gi"}));
        json!({"name": name, "resources": {"requests": requests}})
    }

    fn pod(status: &Value, spec: &Value) -> Pod {
        let metadata = json!({"name": "a", "creationTimestamp": time(0)});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).expect("a pod")
    }

    fn requesting(containers: &[Value], more: &Value) -> Pod {
        let mut spec = json!({"containers": containers});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        pod(&json!({"phase": "Pending"}), &spec)
    }

    #[test]
    fn ages_and_stages_are_those_that_the_hpa_looks_at() {
        let ready =
            |status: &str, second| json!([{"type": "Ready", "status": status, "lastTransitionTime": time(second)}]);
        let unsaid = json!([{"type": "Ready", "status": "True"}]);
        for (status, expected) in [
            (
                json!({"phase": "Running", "startTime": time(5), "conditions": ready("True", 20)}),
                Some((95, Stage::Ready(S(80)))),
            ),
            (
                json!({"phase": "Running", "startTime": time(5), "conditions": ready("False", 5)}),
                Some((95, Stage::Unready(S(95)))),
            ),
            (
                json!({"phase": "Running", "startTime": time(5), "conditions": ready("Unknown", 90)}),
                Some((95, Stage::Ready(S(10)))),
            ),
            (json!({"phase": "Running", "startTime": time(5), "conditions": unsaid}), Some((95, Stage::Ready(S(95))))),
            (
                json!({"phase": "Pending", "startTime": time(5), "conditions": ready("False", 5)}),
                Some((95, Stage::Pending)),
            ),
            (json!({"phase": "Running", "conditions": ready("True", 20)}), Some((100, Stage::Pending))),
            (json!({"phase": "Running", "startTime": time(5)}), Some((95, Stage::Pending))),
            (json!({}), Some((100, Stage::Pending))),
            (json!({"phase": "Failed", "startTime": time(5)}), None),
            // The other clock is ahead.
            (
                json!({"phase": "Running", "startTime": time(110), "conditions": ready("True", 130)}),
                Some((0, Stage::Ready(S(0)))),
            ),
        ] {
            let now = time(100).parse().expect("a time");
            let object = pod(&status, &json!({"containers": [container("replica", Some("1"))]}));
            let found = pods(&[&object], &BTreeMap::new(), now).expect("good");
            assert_eq!(found.first().map(|pod| (pod.age.as_secs(), pod.stage)), expected, "{status}");
            let mut leaving = object;
            leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
            assert_eq!(pods(&[&leaving], &BTreeMap::new(), now), Ok(vec![]));
        }
    }

    #[test]
    fn samples_belong_to_pods_by_name() {
        let samples = ["a", "b"].map(|name| {
            let ended = time(if name == "a" { 70 } else { 130 }).parse().expect("a time");
            (name.to_owned(), Sample { cores: 0.5, ended, window: S(20) })
        });
        let object = |name: &str| {
            let mut object = requesting(&[container("replica", Some("500m"))], &json!({}));
            object.metadata.name = Some(name.into());
            object
        };
        let found = pods(&["a", "b", "c"].map(object), &samples.into(), time(100).parse().expect("a time"));
        let usages: Vec<_> = found.expect("good").into_iter().map(|pod| pod.usage).collect();
        let usage = |age| Some(Usage { cores: 0.5, age: S(age), window: S(20) });
        assert_eq!(usages, [usage(30), usage(0), None]);
    }

    #[test]
    fn what_a_pod_requests_is_the_sum_of_its_containers() {
        let none = json!({});
        let (replica, proxy) = (container("replica", Some("750m")), container("proxy", Some("0.25")));
        let mut stays = proxy.clone();
        stays["restartPolicy"] = "Always".into();
        let whole = json!({"resources": {"requests": {"cpu": "3"}}});
        for (containers, more, expected) in [
            (vec![replica.clone()], none.clone(), Ok(0.75)),
            (vec![replica.clone(), proxy.clone()], none.clone(), Ok(1.0)),
            (vec![replica.clone()], json!({"initContainers": [stays]}), Ok(1.0)),
            (vec![replica.clone()], json!({"initContainers": [container("once", None)]}), Ok(0.75)),
            (vec![container("replica", None)], whole, Ok(3.0)),
            (
                vec![replica.clone(), container("proxy", None)],
                none.clone(),
                Err("no processor is requested for container proxy of pod a"),
            ),
            (vec![container("replica", Some("much"))], none.clone(), Err("\"much\" is no request of pod a")),
            (vec![container("replica", Some("0"))], none, Err("no processor is requested for any container of pod a")),
        ] {
            match (request(&requesting(&containers, &more)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{containers:?}"),
                (Err(why), Err(word)) => assert!(why.contains(word) && why.contains("requests.cpu"), "{why}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }
}

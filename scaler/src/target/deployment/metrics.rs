//! What pods use of the processor, as the API's extension metrics.k8s.io tells (metrics-server's, or another's). A task of
//! its own asks now and then, since an extension may hang while the API server itself does not.

use super::quantity;
use crate::cluster::{Failure, request};
use crate::target::usage::PERIOD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::core::Selector;
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// What is known of the pods, by name; or why nothing is, and what to do about it.
pub type Samples = Result<BTreeMap<String, Sample>, String>;

/// What one pod used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// All its containers', a mean over the window.
    pub cores: f64,
    /// When the window ended, by the clock of whoever measured.
    pub ended: Timestamp,
    /// Its length.
    pub window: Duration,
}

/// The latest answer. Nobody asks any more once this is dropped.
pub struct Metrics {
    samples: watch::Receiver<Samples>,
    _asking: JoinSet<()>,
}

impl Metrics {
    /// Of the pods that a selector means. Asks at once, and then again and again.
    pub fn new(client: &Client, namespace: &str, selector: &Selector) -> Self {
        let kind = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics");
        let kind = ApiResource::from_gvk_with_plural(&kind, "pods");
        let api = Api::namespaced_with(client.clone(), namespace, &kind);
        let (tell, samples) = watch::channel(Err("metrics.k8s.io has not answered yet; wait".into()));
        let mut asking = JoinSet::new();
        asking.spawn(ask(api, ListParams::default().labels_from(selector), tell));
        Self { samples, _asking: asking }
    }

    /// Waits for another answer.
    ///
    /// # Cancel safety
    /// No answer is lost.
    pub async fn changed(&mut self) {
        self.samples.changed().await.expect("the task goes on for ever");
    }

    /// The latest.
    pub fn samples(&self) -> Samples {
        self.samples.borrow().clone()
    }
}

async fn ask(api: Api<DynamicObject>, which: ListParams, tell: watch::Sender<Samples>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = None;
    loop {
        tick.tick().await;
        let told = match request(api.list(&which)).await {
            Ok(list) => samples(&list.items),
            Err(failure) => Err(advice(&failure)),
        };
        let now = told.as_ref().err().cloned();
        if complaint != now {
            match &now {
                Some(why) => tracing::warn!("{why}"),
                None => tracing::info!("metrics.k8s.io answers again"),
            }
            complaint = now;
        }
        let _before = tell.send_replace(told);
    }
}

/// Why there was no answer, and what to do about it.
fn advice(failure: &Failure) -> String {
    match failure {
        Failure::Refused { code: 404, .. } => {
            "there is no metrics.k8s.io: install metrics-server, or choose a law that does not look at processors"
                .into()
        }
        Failure::Refused { code: 401 | 403, .. } => {
            format!("metrics.k8s.io: {failure}; let the scaler list pods in metrics.k8s.io")
        }
        Failure::Refused { .. } | Failure::Unanswered(_) => {
            format!("metrics.k8s.io: {failure}; look at kubectl describe apiservice v1beta1.metrics.k8s.io")
        }
    }
}

/// A `PodMetrics`, as far as it matters.
#[derive(Deserialize)]
struct Measured {
    timestamp: Time,
    window: String,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    usage: BTreeMap<String, String>,
}

/// PURE: one sample for each pod all of whose containers were measured.
fn samples(list: &[DynamicObject]) -> Samples {
    let mut samples = BTreeMap::new();
    for object in list {
        let name = object.name_any();
        let odd = |what: String| format!("metrics.k8s.io tells of pod {name} {what}; look at who serves it");
        let Measured { timestamp, window, containers } = serde_json::from_value(object.data.clone())
            .map_err(|error| odd(format!("what is no PodMetrics ({error})")))?;
        let parsed = window.parse::<SignedDuration>().ok().and_then(|window| Duration::try_from(window).ok());
        let window = parsed.ok_or_else(|| odd(format!("a window of {window:?}")))?;
        let cpu: Option<Vec<&String>> = containers.iter().map(|container| container.usage.get("cpu")).collect();
        let Some(cpu) = cpu else { continue };
        let mut cores = 0.0;
        for text in cpu {
            cores += quantity::cores(text).ok_or_else(|| odd(format!("that it uses {text:?} of the processor")))?;
        }
        samples.insert(name, Sample { cores, ended: timestamp.0, window });
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(items: &[Value]) -> Samples {
        let objects = items.iter().map(|item| serde_json::from_value(item.clone()).expect("an object"));
        samples(&objects.collect::<Vec<_>>())
    }

    fn measured(window: &str, usages: &[Value]) -> Value {
        let containers: Vec<Value> = usages.iter().map(|usage| json!({"name": "replica", "usage": usage})).collect();
        json!({"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:10Z", "window": window, "containers": containers})
    }

    #[test]
    fn pods_are_sums_of_their_containers() {
        let ended = "2026-01-01T00:00:10Z".parse().expect("a time");
        let sample = |cores, seconds| Sample { cores, ended, window: Duration::from_secs_f64(seconds) };
        for (window, usages, expected) in [
            ("15s", vec![json!({"cpu": "500m", "memory": "9Mi"})], Some(sample(0.5, 15.0))),
            ("20.345s", vec![json!({"cpu": "500m"}), json!({"cpu": "250000000n"})], Some(sample(0.75, 20.345))),
            ("1m0s", vec![json!({"cpu": "0"})], Some(sample(0.0, 60.0))),
            ("500ms", vec![], Some(sample(0.0, 0.5))),
            // Not all of it was measured.
            ("15s", vec![json!({"cpu": "500m"}), json!({"memory": "9Mi"})], None),
        ] {
            let found = read(&[measured(window, &usages)]).expect("good");
            assert_eq!(found.get("a"), expected.as_ref(), "{window} {usages:?}");
        }
        assert_eq!(read(&[]), Ok(BTreeMap::new()));
    }

    #[test]
    fn what_cannot_be_true_is_no_answer() {
        let mut undated = measured("15s", &[]);
        undated["timestamp"] = "yesterday".into();
        for (item, word) in [
            (measured("-15s", &[]), "a window of \"-15s\""),
            (measured("soon", &[]), "a window of \"soon\""),
            (measured("", &[]), "a window of \"\""),
            (measured("15s", &[json!({"cpu": "-5"})]), "uses \"-5\""),
            (measured("15s", &[json!({"cpu": "1e9"})]), "uses \"1e9\""),
            (measured("15s", &[json!({"cpu": 5})]), "no PodMetrics"),
            (measured("15s", &[json!(null)]), "no PodMetrics"),
            (json!({"metadata": {"name": "a"}}), "no PodMetrics"),
            (undated, "no PodMetrics"),
        ] {
            let why = read(&[item]).expect_err("refused");
            assert!(why.contains(word) && why.contains("of pod a "), "{why}");
        }
    }
}

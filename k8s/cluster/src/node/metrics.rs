//! metrics.k8s.io, as metrics-server serves it: what each pod used of the processor over the last window.

use super::Shared;
use super::status::second;
use hyper::StatusCode;
use k8s_openapi::jiff::Timestamp;
use percent_encoding::percent_decode_str;
use rustix::process::Pid;
use serde_json::{Value, json};
use service::respond::{self, Reply};
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Over which use is measured (metrics-server's --metric-resolution).
const WINDOW: Duration = Duration::from_secs(15);

/// Its paths.
pub(super) const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";

/// What one pod used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    cores: f64,
    bytes: u64,
    taken: Timestamp,
    window: Duration,
}

type Labels = BTreeMap<String, String>;

/// By the pod's name.
pub(super) type Samples = Arc<Mutex<BTreeMap<String, Sample>>>;

/// One sample of each pod in every window; of one that has begun since, after the next.
pub(super) async fn measure(shared: Arc<Shared>, samples: Samples) {
    let mut before: BTreeMap<String, (Pid, Duration, Instant)> = BTreeMap::new();
    let mut tick = tokio::time::interval(WINDOW);
    loop {
        tick.tick().await;
        let mut now = BTreeMap::new();
        let mut fresh = BTreeMap::new();
        for (name, pid) in shared.processes().clone() {
            let Some((used, bytes)) = usage(pid) else { continue };
            let at = Instant::now();
            if let Some((same, earlier, then)) = before.get(&name)
                && *same == pid
            {
                let window = at - *then;
                let cores = used.saturating_sub(*earlier).as_secs_f64() / window.as_secs_f64() / shared.share;
                fresh.insert(name.clone(), Sample { cores, bytes, taken: Timestamp::now(), window });
            }
            now.insert(name, (pid, used, at));
        }
        before = now;
        *samples.lock().expect("nobody panics with it") = fresh;
    }
}

/// Processor time and memory of a process, from /proc.
fn usage(pid: Pid) -> Option<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (ticks, pages) = parse(&stat)?;
    let second = rustix::param::clock_ticks_per_second();
    Some((Duration::from_secs_f64(ticks as f64 / second as f64), pages * rustix::param::page_size() as u64))
}

/// Clock ticks in user and system mode, and resident pages (proc_pid_stat(5): fields 14, 15 and 24, counted after the
/// name, which may hold anything).
fn parse(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((number(14)? + number(15)?, number(24)?))
}

/// What is at a path below [`GROUP`].
pub(super) fn answer(path: &str, query: &str, shared: &Shared, samples: &Samples) -> Reply {
    let Some(wanted) = selector(query) else {
        return respond::bytes(StatusCode::BAD_REQUEST, "text/plain", "only KEY=VALUE selectors are known".into());
    };
    let samples = samples.lock().expect("nobody panics with it").clone();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let node = shared.name.as_str();
    match segments[..] {
        [] => respond::json(StatusCode::OK, &resources()),
        ["nodes"] => respond::json(StatusCode::OK, &list("NodeMetricsList", vec![total(node, &samples)])),
        ["pods"] => respond::json(StatusCode::OK, &list("PodMetricsList", pods(shared, &samples, None, &wanted))),
        ["namespaces", namespace, "pods"] => {
            respond::json(StatusCode::OK, &list("PodMetricsList", pods(shared, &samples, Some(namespace), &wanted)))
        }
        _ => respond::not_found(path, "", ""),
    }
}

/// The labels that a query's `labelSelector` wants; nothing if it wants more than equality.
fn selector(query: &str) -> Option<Labels> {
    let given = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default();
    let given = percent_decode_str(given).decode_utf8().ok()?;
    let terms = given.split(',').filter(|term| !term.is_empty()).map(|term| {
        let (key, value) = term.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!key.ends_with('!') && !key.contains([' ', '('])).then(|| (key.to_owned(), value.to_owned()))
    });
    terms.collect()
}

fn resources() -> Value {
    let kind = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
        "resources": [kind("pods", "PodMetrics", true), kind("nodes", "NodeMetrics", false)]})
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items})
}

fn pods(shared: &Shared, samples: &BTreeMap<String, Sample>, namespace: Option<&str>, wanted: &Labels) -> Vec<Value> {
    let known = shared.pods();
    let of = |(name, sample): (&String, &Sample)| {
        let pod = known.get(name)?;
        let metadata = &pod.metadata;
        let has = |(key, value): (&String, &String)| {
            metadata.labels.as_ref().is_some_and(|labels| labels.get(key) == Some(value))
        };
        let is_asked_for = namespace.is_none_or(|namespace| metadata.namespace.as_deref() == Some(namespace))
            && wanted.iter().all(has);
        let container = &pod.spec.as_ref()?.containers.first()?.name;
        is_asked_for.then(|| {
            json!({
                "metadata": {"name": name, "namespace": metadata.namespace, "labels": metadata.labels},
                "timestamp": second(sample.taken), "window": format!("{:.0}s", sample.window.as_secs_f64()),
                "containers": [{"name": container, "usage": used(sample.cores, sample.bytes)}],
            })
        })
    };
    samples.iter().filter_map(of).collect()
}

fn total(node: &str, samples: &BTreeMap<String, Sample>) -> Value {
    let (cores, bytes) =
        (samples.values().map(|sample| sample.cores).sum(), samples.values().map(|sample| sample.bytes).sum());
    json!({"metadata": {"name": node}, "timestamp": second(Timestamp::now()), "window": format!("{}s", WINDOW.as_secs()),
        "usage": used(cores, bytes)})
}

fn used(cores: f64, bytes: u64) -> Value {
    json!({"cpu": format!("{:.0}n", cores * 1e9), "memory": format!("{}Ki", bytes >> 10)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_labels_and_values() {
        let labels = |query: &str| {
            selector(query)
                .map(|labels| labels.into_iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>())
        };
        let two = vec!["a/b:c".to_owned(), "d:e".to_owned()];
        assert_eq!(labels("limit=5&labelSelector=a%2Fb%3Dc%2Cd%3D%3De"), Some(two));
        assert_eq!(labels(""), Some(vec![]));
        for query in
            ["labelSelector=a%21%3Db", "labelSelector=a+in+%28b%29", "labelSelector=a%20in%20(b)", "labelSelector=a"]
        {
            assert_eq!(labels(query), None, "{query}");
        }
    }

    #[test]
    fn processor_time_and_memory_stand_after_the_name() {
        let rest = "S 4 5 6 7 8 9 10 11 12 13 30 12 16 17 18 19 20 21 22 23 2300 25";
        // Each field holds its own number but for those that are looked for.
        assert_eq!(parse(&format!("7 (a) b) {rest}")), Some((30 + 12, 2300)));
        assert_eq!(parse("7 (a) S 1 2"), None);
        assert_eq!(parse(""), None);
        let own = usage(rustix::process::getpid()).expect("it runs");
        assert!(own.1 > 0);
    }
}

//! metrics.k8s.io, as metrics-server serves it: the processor time and memory that each pod uses.

use super::NodeState;
use super::status::rfc3339;
use anyhow::Result;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kubernetes::label_selector::LabelSelector;
use procfs::process::Process;
use rustix::process::Pid;
use serde_json::{Value, json};
use service::respond::{self, Reply};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The time over which processor time is measured. It corresponds to metrics-server's flag --metric-resolution.
const WINDOW: Duration = Duration::from_secs(15);

/// The path of the API metrics.k8s.io.
pub(super) const API_PATH: &str = "/apis/metrics.k8s.io/v1beta1";

/// The processor time and memory that a pod used in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct UsageSample {
    /// The mean number of cores of the node that the pod used.
    cores: f64,
    /// The resident memory at the end of the window, in bytes.
    bytes: u64,
    /// The end of the window.
    end: Timestamp,
    /// The length of the window.
    window: Duration,
}

/// The processor time and memory of a process at one time.
#[derive(Debug, Clone, Copy)]
struct ProcessUsage {
    pid: Pid,
    /// The processor time since the start of the process.
    processor_time: Duration,
    /// The resident memory in bytes.
    bytes: u64,
    /// The time at which the usage was read.
    at: Instant,
}

/// The latest sample of each pod, by the pod's name.
pub(super) type UsageSamples = Arc<Mutex<BTreeMap<String, UsageSample>>>;

/// Replaces `samples` after each window. A process has no sample before it has run for a whole window. Never ends.
pub(super) async fn measure(shared: Arc<NodeState>, samples: UsageSamples) {
    let mut before: BTreeMap<String, ProcessUsage> = BTreeMap::new();
    let mut ticks = tokio::time::interval(WINDOW);
    loop {
        ticks.tick().await;
        let processes = shared.processes().clone();
        // A process that has just ended has no usage, and is left out.
        let now: BTreeMap<String, ProcessUsage> =
            processes.into_iter().filter_map(|(name, pid)| Some((name, usage(pid).ok()?))).collect();
        let same_process = |(name, usage): (&String, &ProcessUsage)| {
            let earlier = before.get(name).filter(|earlier| earlier.pid == usage.pid)?;
            Some((name.clone(), UsageSample::new(earlier, usage, shared.core_share)))
        };
        *samples.lock().expect("no thread panics while it holds the lock") =
            now.iter().filter_map(same_process).collect();
        before = now;
    }
}

impl UsageSample {
    /// The sample of a process for the time between `earlier` and `later`. `core_share` is the processor time of a core
    /// of the node, as a share of a core of this machine.
    fn new(earlier: &ProcessUsage, later: &ProcessUsage, core_share: f64) -> Self {
        let window = later.at - earlier.at;
        let used = later.processor_time.saturating_sub(earlier.processor_time);
        let cores = used.as_secs_f64() / window.as_secs_f64() / core_share;
        Self { cores, bytes: later.bytes, end: Timestamp::now(), window }
    }
}

/// The usage of a process now.
fn usage(pid: Pid) -> Result<ProcessUsage> {
    let stat = Process::new(pid.as_raw_nonzero().get())?.stat()?;
    let ticks = (stat.utime + stat.stime) as f64;
    Ok(ProcessUsage {
        pid,
        processor_time: Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64),
        bytes: stat.rss * procfs::page_size(),
        at: Instant::now(),
    })
}

/// The answer to a request. `path` is the path below [`API_PATH`].
pub(super) fn answer(path: &str, query: &str, shared: &NodeState, samples: &UsageSamples) -> Reply {
    let selector = match LabelSelector::of_query(query) {
        Ok(selector) => selector,
        Err(error) => return respond::bytes(StatusCode::BAD_REQUEST, "text/plain", error.to_string().into()),
    };
    let samples = samples.lock().expect("no thread panics while it holds the lock").clone();
    let pods = |namespace| list("PodMetricsList", pod_metrics(shared, &samples, namespace, &selector));
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments[..] {
        [] => respond::json(StatusCode::OK, &resource_list()),
        ["nodes"] => {
            let node = node_metrics(&shared.name, &samples);
            respond::json(StatusCode::OK, &list("NodeMetricsList", vec![node]))
        }
        ["pods"] => respond::json(StatusCode::OK, &pods(None)),
        ["namespaces", namespace, "pods"] => respond::json(StatusCode::OK, &pods(Some(namespace))),
        _ => respond::not_found(path, "", ""),
    }
}

fn resource_list() -> Value {
    let resource = |name: &str, kind: &str, is_namespaced: bool| {
        let verbs = ["get", "list"];
        json!({"name": name, "singularName": "", "namespaced": is_namespaced, "kind": kind, "verbs": verbs})
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
        "resources": [resource("pods", "PodMetrics", true), resource("nodes", "NodeMetrics", false)]})
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items})
}

/// The metrics of the pods that `selector` picks, in `namespace`, or in all namespaces if `None`.
fn pod_metrics(
    shared: &NodeState,
    samples: &BTreeMap<String, UsageSample>,
    namespace: Option<&str>,
    selector: &LabelSelector,
) -> Vec<Value> {
    let pods = shared.pods();
    let found = samples.iter().filter_map(|(name, sample)| Some((pods.get(name)?, sample)));
    let selected = found.filter(|(pod, _)| is_selected(pod, namespace, selector));
    selected.filter_map(|(pod, sample)| pod_metric(pod, sample)).collect()
}

fn is_selected(pod: &Pod, namespace: Option<&str>, selector: &LabelSelector) -> bool {
    namespace.is_none_or(|namespace| pod.metadata.namespace.as_deref() == Some(namespace))
        && selector.matches(pod.labels())
}

fn pod_metric(pod: &Pod, sample: &UsageSample) -> Option<Value> {
    let metadata = &pod.metadata;
    let container = &pod.spec.as_ref()?.containers.first()?.name;
    Some(json!({
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "labels": metadata.labels},
        "timestamp": rfc3339(sample.end), "window": format!("{:.0}s", sample.window.as_secs_f64()),
        "containers": [{"name": container, "usage": usage_json(sample.cores, sample.bytes)}],
    }))
}

fn node_metrics(node: &str, samples: &BTreeMap<String, UsageSample>) -> Value {
    let cores = samples.values().map(|sample| sample.cores).sum();
    let bytes = samples.values().map(|sample| sample.bytes).sum();
    json!({"metadata": {"name": node}, "timestamp": rfc3339(Timestamp::now()),
        "window": format!("{}s", WINDOW.as_secs()), "usage": usage_json(cores, bytes)})
}

fn usage_json(cores: f64, bytes: u64) -> Value {
    json!({"cpu": format!("{:.0}n", cores * 1e9), "memory": format!("{}Ki", bytes >> 10)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_has_memory_and_the_cores_that_were_used_in_the_window() {
        let own = usage(rustix::process::getpid()).expect("this process runs");
        assert!(own.bytes > 0);
        let later = ProcessUsage { processor_time: own.processor_time + WINDOW / 2, at: own.at + WINDOW, ..own };
        assert_eq!(UsageSample::new(&own, &later, 0.25).cores, 2.0);
    }
}

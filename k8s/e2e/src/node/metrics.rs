//! metrics.k8s.io, as metrics-server serves it: what each pod used of the processor over the last window.

use super::Shared;
use super::status::second;
use crate::network;
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::PostParams;
use kube::{Api, Client};
use percent_encoding::percent_decode_str;
use rustix::process::Pid;
use serde_json::{Value, json};
use service::respond::{self, Reply};
use service::tls::Tls;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Over which use is measured (metrics-server's --metric-resolution).
const WINDOW: Duration = Duration::from_secs(15);

/// Where it is served, on the node's address.
const PORT: u16 = 10250;

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";

/// What one pod used.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    cores: f64,
    bytes: u64,
    taken: Timestamp,
    window: Duration,
}

type Labels = BTreeMap<String, String>;

type Samples = Arc<Mutex<BTreeMap<String, Sample>>>;

/// Serves it from now on.
///
/// # Errors
/// When it cannot be served here.
pub(super) async fn serve(shared: &Arc<Shared>, folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["metrics".to_owned()])?;
    let [certificate, key] = ["metrics.crt", "metrics.key"].map(|name| folder.join(name));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    let tls = Tls::open(certificate, key)?;
    let listener = TcpListener::bind((network::NODE, PORT)).await.context("listen for metrics.k8s.io")?;
    let samples = Samples::default();
    let (pods, measured) = (shared.clone(), samples.clone());
    let handle = move |request: Request<Incoming>| std::future::ready(answer(&request, &pods, &measured));
    tokio::spawn(service::server::serve(listener, Some(tls), handle, std::future::pending(), Duration::ZERO));
    tokio::spawn(measure(shared.clone(), samples));
    Ok(())
}

/// Makes it a part of the API.
///
/// # Errors
/// When the API server refuses.
pub(super) async fn register(client: &Client) -> Result<()> {
    let namespace = "kube-system";
    let port = |number: u16| json!([{"name": "https", "port": number, "protocol": "TCP"}]);
    let service = json!({"spec": {"ports": port(443)}});
    create(&Api::<Service>::namespaced(client.clone(), namespace), "metrics", service).await?;
    let subset = json!({"addresses": [{"ip": network::NODE.to_string()}], "ports": port(PORT)});
    let endpoints = json!({"subsets": [subset]});
    create(&Api::<Endpoints>::namespaced(client.clone(), namespace), "metrics", endpoints).await?;
    let spec = json!({"group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
        "groupPriorityMinimum": 100, "versionPriority": 100,
        "service": {"namespace": namespace, "name": "metrics", "port": 443}});
    create(&Api::<APIService>::all(client.clone()), "v1beta1.metrics.k8s.io", json!({ "spec": spec })).await?;
    Ok(())
}

async fn create<K>(api: &Api<K>, name: &str, mut object: Value) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    object["metadata"]["name"] = name.into();
    let object = serde_json::from_value(object).with_context(|| format!("make {name}"))?;
    api.create(&PostParams::default(), &object).await.map(drop).with_context(|| format!("create {name}"))
}

/// One sample of each pod in every window; of one that has begun since, after the next.
async fn measure(shared: Arc<Shared>, samples: Samples) {
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

fn answer(request: &Request<Incoming>, shared: &Shared, samples: &Samples) -> Reply {
    let path = request.uri().path();
    let Some(rest) = path.strip_prefix(GROUP) else { return respond::not_found(path, "", "") };
    let Some(wanted) = selector(request.uri().query().unwrap_or_default()) else {
        return respond::whole(StatusCode::BAD_REQUEST, "text/plain", "only KEY=VALUE selectors are known".into());
    };
    let samples = samples.lock().expect("nobody panics with it").clone();
    let segments: Vec<&str> = rest.split('/').skip(1).collect();
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

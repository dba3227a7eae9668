//! Replicas behind a Service of a Kubernetes cluster. Their addresses come from all EndpointSlices of the Service, or
//! from its Endpoints if the API server has no `discovery.k8s.io/v1`. While the API server is unreachable, the set does
//! not change.

pub mod pods;

use super::{Error, Published, Publisher};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use kubernetes::backoff::Backoff;
use kubernetes::client;
use kubernetes::denials::LASTING;
use kubernetes::mirror::WATCH_SECONDS;
use pods::{PodEndpoint, PodEndpoints, from_endpoints, from_slice};
use service::repeated_failure::RepeatedFailure;
use std::collections::HashMap;
use std::pin::pin;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;

/// The time between two attempts to connect to the API server after the start.
const CONNECT_INTERVAL: Duration = Duration::from_secs(2);

/// The pauses after failures of the watch. The pauses of kube's default grow to 30 s: after an outage of the API server,
/// new replicas would get no request for that time.
#[derive(Debug, Default)]
struct WatchPauses(Backoff);

impl Iterator for WatchPauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.after_failure())
    }
}

impl kube::runtime::utils::Backoff for WatchPauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The name of a Service, and of one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName {
    /// The namespace of the Service.
    pub namespace: String,
    /// The name of the Service within its namespace.
    pub name: String,
    /// The name of the port on which the replicas listen; `None` for the first port.
    pub port: Option<String>,
}

impl FromStr for ServiceName {
    type Err = Error;

    /// Parses `NAMESPACE/SERVICE[:PORTNAME]`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (path, port) = match text.split_once(':') {
            Some((path, port)) => (path, Some(port)),
            None => (text, None),
        };
        match path.split_once('/') {
            Some((namespace, name)) if [namespace, name].into_iter().chain(port).all(is_label) => {
                Ok(Self { namespace: namespace.into(), name: name.into(), port: port.map(str::to_owned) })
            }
            _ => Err(Error::Service(text.into())),
        }
    }
}

/// Whether `text` is a label by RFC 1123. The API server requires this of names.
fn is_label(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| is_alphanumeric(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Publishes the addresses behind the Service until the receiver is dropped.
pub fn watch(service: ServiceName) -> Published {
    let (mut publisher, published) = Publisher::new();
    tokio::spawn(async move {
        let changes = publisher.changes.clone();
        tokio::select! {
            () = follow(&service, &mut publisher) => {}
            () = changes.closed() => {}
        }
    });
    published
}

async fn follow(service: &ServiceName, publisher: &mut Publisher) {
    let (mut forbidden_since, mut failure) = (None, RepeatedFailure::default());
    let (client, has_slices) = loop {
        match connect(service).await {
            Ok(connected) => break connected,
            Err(error) => {
                let forbidden = is_forbidden(&error).then(|| *forbidden_since.get_or_insert_with(Instant::now));
                forbidden_since = forbidden;
                let advice = advice(forbidden.map(|since| since.elapsed()));
                let namespace = &service.namespace;
                if failure.is_news(&format!("{error}; {advice}"), Instant::now()) {
                    tracing::warn!(%error, namespace, "cannot list EndpointSlices at the API server; trying again: {advice}");
                }
            }
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    };
    let port = service.port.as_deref();
    if has_slices {
        let config = watcher::Config::default()
            .timeout(WATCH_SECONDS)
            .labels(&format!("kubernetes.io/service-name={}", service.name));
        let api = Api::<EndpointSlice>::namespaced(client, &service.namespace);
        follow_objects(api, config, publisher, |slice| from_slice(slice, port)).await;
    } else {
        tracing::info!("the API server has no EndpointSlices of discovery.k8s.io/v1; watching Endpoints instead");
        let config =
            watcher::Config::default().timeout(WATCH_SECONDS).fields(&format!("metadata.name={}", service.name));
        let api = Api::<Endpoints>::namespaced(client, &service.namespace);
        follow_objects(api, config, publisher, |object| from_endpoints(object, port)).await;
    }
}

/// Connects to the API server. Returns a client, and whether the API server has EndpointSlices of
/// `discovery.k8s.io/v1`.
async fn connect(service: &ServiceName) -> kube::Result<(Client, bool)> {
    let client = client::connect().await?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &service.namespace);
    match slices.list(&ListParams::default().limit(1)).await {
        Ok(_) => Ok((client, true)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok((client, false)),
        Err(error) => Err(error),
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

/// Advice after a failed attempt to connect. `forbidden` is the time for which all attempts have been forbidden; `None` if
/// this one was not.
fn advice(forbidden: Option<Duration>) -> &'static str {
    match forbidden {
        None => "check the kubeconfig and the API server",
        Some(forbidden) if forbidden < LASTING => {
            "an API server that has just started forbids every request for a moment"
        }
        Some(_) => "check the Role of the service account",
    }
}

/// Watches the objects that match `config`, and publishes what each event changes. `endpoints` are those of one object.
/// While the objects are listed again after an interruption, the previous ones stay.
async fn follow_objects<K>(
    api: Api<K>,
    config: watcher::Config,
    publisher: &mut Publisher,
    endpoints: impl Fn(&K) -> Vec<PodEndpoint>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut pods = PodEndpoints::default();
    let (mut listed, mut failure) = (HashMap::new(), RepeatedFailure::default());
    let mut events = pin!(watcher(api, config).backoff(WatchPauses::default()));
    while let Some(event) = events.next().await {
        let changes = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(object.name_any(), endpoints(&object));
                continue;
            }
            Ok(Event::InitDone) => pods.replace_all(std::mem::take(&mut listed)),
            Ok(Event::Apply(object)) => pods.replace(object.name_any(), endpoints(&object)),
            Ok(Event::Delete(object)) => pods.replace(object.name_any(), Vec::new()),
            Err(error) => {
                if failure.is_news(&error.to_string(), Instant::now()) {
                    tracing::warn!(%error, "the watch of the Service was interrupted; keeping the last replicas");
                }
                continue;
            }
        };
        publisher.publish_changes(changes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::utils::Backoff;

    #[test]
    fn the_watch_is_tried_again_within_five_seconds_however_long_it_has_failed() {
        let mut pauses = WatchPauses::default();
        assert!(pauses.next() < Some(Duration::from_secs(1)));
        assert!(pauses.by_ref().take(100).all(|pause| pause < Duration::from_secs(5)));
        assert!(pauses.next() > Some(Duration::from_secs(3)));
        pauses.reset();
        assert!(pauses.next() < Some(Duration::from_secs(1)));
    }

    #[test]
    fn permissions_are_to_blame_only_for_denials_that_last() {
        for (forbidden, expected) in [(None, "kubeconfig"), (Some(0), "just started"), (Some(9), "just started")]
            .into_iter()
            .chain([(Some(10), "Role"), (Some(100), "Role")])
        {
            let advice = advice(forbidden.map(Duration::from_secs));
            assert!(advice.contains(expected), "{forbidden:?}: {advice}");
        }
    }

    #[test]
    fn a_service_is_given_by_namespace_name_and_port() {
        let parsed: ServiceName = "shop/replica:http".parse().expect("the name is well formed");
        assert_eq!(parsed, ServiceName { namespace: "shop".into(), name: "replica".into(), port: Some("http".into()) });
        for bad in ["", "replica", "/replica", "shop/", "shop/replica:", "Shop/replica", "a/b/c", "shop/-x", "a/b:c:d"]
        {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }
}

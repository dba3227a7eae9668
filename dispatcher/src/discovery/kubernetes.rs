//! Replicas behind a Service of a Kubernetes cluster. Their addresses come from all EndpointSlices of the Service, or
//! from its Endpoints if the API server has no `discovery.k8s.io/v1`. While the API server is unreachable, the set does
//! not change.

pub mod pods;

use super::{Error, Published, Publisher};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use pods::{PodEndpoint, PodEndpoints, from_endpoints, from_slice};
use std::collections::HashMap;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;
use tokio_stream::StreamExt;

/// The time between two attempts to connect to the API server after the start.
const CONNECT_INTERVAL: Duration = Duration::from_secs(2);

/// The pause after the first failure of the watch. Each further failure doubles the pause.
const FIRST_WATCH_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause after a failure of the watch. The pauses of kube's default grow to 30 s: after an outage of the API
/// server, new replicas would get no request for that time.
const LAST_WATCH_PAUSE: Duration = Duration::from_secs(4);

/// The pauses after failures of the watch. Each is up to a fifth shorter or longer by chance, so that many dispatchers do
/// not come back to the API server at one moment.
#[derive(Debug, Default)]
struct WatchPauses {
    failures: u32,
}

impl Iterator for WatchPauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let doubled = FIRST_WATCH_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        Some(doubled.min(LAST_WATCH_PAUSE).mul_f64(0.8 + 0.4 * rand::random::<f64>()))
    }
}

impl Backoff for WatchPauses {
    fn reset(&mut self) {
        self.failures = 0;
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
    let (client, has_slices) = loop {
        match connect(service).await {
            Ok(connected) => break connected,
            Err(error) => tracing::warn!(
                %error,
                namespace = service.namespace,
                "cannot list EndpointSlices at the API server; trying again: check the kubeconfig, or the rights of \
                 the service account"
            ),
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    };
    let port = service.port.as_deref();
    if has_slices {
        let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", service.name));
        let api = Api::<EndpointSlice>::namespaced(client, &service.namespace);
        follow_objects(api, config, publisher, |slice| from_slice(slice, port)).await;
    } else {
        tracing::info!("the API server has no EndpointSlices of discovery.k8s.io/v1; watching Endpoints instead");
        let config = watcher::Config::default().fields(&format!("metadata.name={}", service.name));
        let api = Api::<Endpoints>::namespaced(client, &service.namespace);
        follow_objects(api, config, publisher, |object| from_endpoints(object, port)).await;
    }
}

/// Connects to the API server. Returns a client, and whether the API server has EndpointSlices of
/// `discovery.k8s.io/v1`.
async fn connect(service: &ServiceName) -> kube::Result<(Client, bool)> {
    let client = Client::try_default().await?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &service.namespace);
    match slices.list(&ListParams::default().limit(1)).await {
        Ok(_) => Ok((client, true)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok((client, false)),
        Err(error) => Err(error),
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
    let mut listed = HashMap::new();
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
                tracing::warn!(%error, "the watch of the Service was interrupted; keeping the last replicas");
                continue;
            }
        };
        publisher.publish_changes(changes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_service_is_given_by_namespace_name_and_port() {
        let parsed: ServiceName = "shop/replica:http".parse().expect("the name is well formed");
        assert_eq!(parsed, ServiceName { namespace: "shop".into(), name: "replica".into(), port: Some("http".into()) });
        for bad in ["", "replica", "/replica", "shop/", "shop/replica:", "Shop/replica", "a/b/c", "shop/-x", "a/b:c:d"]
        {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }
}

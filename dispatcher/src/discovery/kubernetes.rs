//! Replicas behind a Service of a Kubernetes cluster. Their addresses come from all EndpointSlices of the Service, or
//! from its Endpoints if the API server has no `discovery.k8s.io/v1`. While the API server is unreachable, the set does
//! not change.

use super::{Error, Published, publish};
use crate::rotation::Address;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
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
    let (publisher, published) = watch::channel(BTreeSet::new());
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&service, &publisher) => {}
            () = publisher.closed() => {}
        }
    });
    published
}

async fn follow(service: &ServiceName, publisher: &watch::Sender<BTreeSet<Address>>) {
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
        follow_objects(api, config, publisher, |slices| from_slices(slices, port)).await;
    } else {
        tracing::info!("the API server has no EndpointSlices of discovery.k8s.io/v1; watching Endpoints instead");
        let config = watcher::Config::default().fields(&format!("metadata.name={}", service.name));
        let api = Api::<Endpoints>::namespaced(client, &service.namespace);
        follow_objects(api, config, publisher, |endpoints| from_endpoints(endpoints, port)).await;
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

/// Watches the objects that match `config`, and publishes their `addresses` after every change. The reflector's store
/// keeps the previous objects while they are listed again after an interruption.
async fn follow_objects<K>(
    api: Api<K>,
    config: watcher::Config,
    publisher: &watch::Sender<BTreeSet<Address>>,
    addresses: impl Fn(&[Arc<K>]) -> BTreeSet<Address>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let mut events = pin!(reflector(writer, watcher(api, config).backoff(WatchPauses::default())));
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => publish(publisher, addresses(&store.state())),
            Err(error) => {
                tracing::warn!(%error, "the watch of the Service was interrupted; keeping the last replicas");
            }
        }
    }
}

/// The addresses of the ready endpoints. If no endpoint is ready, the addresses of the endpoints that still serve while
/// they terminate.
fn from_slices(slices: &[Arc<EndpointSlice>], port: Option<&str>) -> BTreeSet<Address> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let number =
            ports.iter().find(|found| port.is_none() || found.name.as_deref() == port).and_then(|port| port.port);
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let addresses = endpoint.addresses.iter().filter_map(|ip| address(ip, number));
            // An endpoint without the condition is ready, by the documentation of EndpointConditions.
            if conditions.ready.unwrap_or(true) {
                ready.extend(addresses);
            } else if conditions.serving.unwrap_or(false) {
                serving.extend(addresses);
            }
        }
    }
    if ready.is_empty() { serving } else { ready }
}

/// The addresses of the ready endpoints in all subsets.
fn from_endpoints(all: &[Arc<Endpoints>], port: Option<&str>) -> BTreeSet<Address> {
    let mut ready = BTreeSet::new();
    for subset in all.iter().flat_map(|endpoints| endpoints.subsets.iter().flatten()) {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let Some(number) = ports.iter().find(|found| port.is_none() || found.name.as_deref() == port) else { continue };
        ready.extend(subset.addresses.iter().flatten().filter_map(|found| address(&found.ip, number.port)));
    }
    ready
}

/// The address `ip:port`, with an IPv6 address in brackets. `None` if `ip` is no IP address, because slices may hold
/// domain names.
fn address(ip: &str, port: i32) -> Option<Address> {
    let port = u16::try_from(port).ok()?;
    match ip.parse().ok()? {
        IpAddr::V4(ip) => Some(format!("{ip}:{port}").into()),
        IpAddr::V6(ip) => Some(format!("[{ip}]:{port}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_watch_is_tried_again_within_five_seconds_however_long_it_has_failed() {
        let mut pauses = WatchPauses::default();
        assert!(pauses.next() < Some(Duration::from_secs(1)));
        assert!(pauses.by_ref().take(100).all(|pause| pause < Duration::from_secs(5)));
        assert!(pauses.next() > Some(Duration::from_secs(3)));
        pauses.reset();
        assert!(pauses.next() < Some(Duration::from_secs(1)));
    }

    fn slices(slices: &[Value]) -> Vec<Arc<EndpointSlice>> {
        let parse = |slice: &Value| serde_json::from_value(slice.clone()).expect("the JSON is an EndpointSlice");
        slices.iter().map(|slice| Arc::new(parse(slice))).collect()
    }

    fn slice(endpoints: &Value) -> Value {
        let ports = json!([{"name": "http", "port": 6000}, {"name": "admin", "port": 6001}]);
        json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints, "ports": ports})
    }

    fn check(given: &[Value], port: Option<&str>, expected: &[&str]) {
        let expected: BTreeSet<Address> = expected.iter().map(|&address| address.into()).collect();
        assert_eq!(from_slices(&slices(given), port), expected, "{given:?}");
    }

    #[test]
    fn slices_are_merged_and_endpoints_that_are_not_ready_are_left_out() {
        let one =
            slice(&json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.0.0.2"]}]));
        let two = slice(&json!([
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            {"addresses": ["fd00::3"], "conditions": {"ready": null}},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false}},
            {"addresses": ["a.example"]},
        ]));
        check(&[one.clone(), two], None, &["10.0.0.1:6000", "10.0.0.2:6000", "[fd00::3]:6000"]);
        check(std::slice::from_ref(&one), Some("admin"), &["10.0.0.1:6001", "10.0.0.2:6001"]);
        check(&[one], Some("grpc"), &[]);
        check(&[slice(&json!([]))], None, &[]);
        check(&[], None, &[]);
    }

    #[test]
    fn terminating_endpoints_are_used_only_when_none_is_ready() {
        let terminating =
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let ready = json!({"addresses": ["10.0.0.2"], "conditions": {"ready": true}});
        check(&[slice(&json!([terminating]))], None, &["10.0.0.1:6000"]);
        check(&[slice(&json!([terminating])), slice(&json!([ready]))], None, &["10.0.0.2:6000"]);
    }

    #[test]
    fn only_the_ready_addresses_of_endpoints_are_published() {
        let endpoints: Endpoints = serde_json::from_value(json!({"subsets": [{
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::2"}],
            "notReadyAddresses": [{"ip": "10.0.0.9"}],
            "ports": [{"name": "http", "port": 6000}],
        }]}))
        .expect("the JSON is Endpoints");
        let all = [Arc::new(endpoints)];
        assert_eq!(from_endpoints(&all, None), ["10.0.0.1:6000", "[fd00::2]:6000"].map(Address::from).into());
        assert!(from_endpoints(&all, Some("grpc")).is_empty());
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

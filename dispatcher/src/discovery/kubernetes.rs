//! Replicas behind a Service of a cluster: all of its EndpointSlices merged, or its Endpoints where the API server has
//! no `discovery.k8s.io/v1`. Losing the API server leaves the set as it was.

use super::{Error, Published};
use crate::rotation::Address;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_api};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::StreamExt;

/// Between two attempts to reach the API server for the first time.
const RETRY: Duration = Duration::from_secs(2);

/// A Service by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of its ports; the first if not given.
    pub port: Option<String>,
}

impl FromStr for Service {
    type Err = Error;

    /// `NAMESPACE/SERVICE[:PORTNAME]`
    fn from_str(text: &str) -> Result<Self, Error> {
        let (path, port) = match text.split_once(':') {
            Some((path, port)) => (path, Some(port)),
            None => (text, None),
        };
        // RFC 1123 labels, as the API server wants them.
        let is_label = |label: &str| {
            let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        match path.split_once('/') {
            Some((namespace, name)) if [namespace, name].into_iter().chain(port).all(is_label) => {
                Ok(Self { namespace: namespace.into(), name: name.into(), port: port.map(str::to_owned) })
            }
            _ => Err(Error::Service(text.into())),
        }
    }
}

/// Follows the Service until nobody listens.
pub fn watch(service: Service) -> Published {
    let (publish, published) = watch::channel(BTreeSet::new());
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&service, &publish) => {}
            () = publish.closed() => {}
        }
    });
    published
}

async fn follow(service: &Service, publish: &watch::Sender<BTreeSet<Address>>) {
    let (client, has_slices) = loop {
        match connect(service).await {
            Ok(connected) => break connected,
            Err(error) => tracing::warn!(%error, "the API server cannot be reached; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let port = service.port.as_deref();
    if has_slices {
        let selector = format!("kubernetes.io/service-name={}", service.name);
        let api = Api::<EndpointSlice>::namespaced(client, &service.namespace);
        follow_objects(api, watcher::Config::default().labels(&selector), publish, |slices| from_slices(slices, port))
            .await;
    } else {
        tracing::info!("the API server has no EndpointSlices v1; watching Endpoints");
        let field = format!("metadata.name={}", service.name);
        let api = Api::<Endpoints>::namespaced(client, &service.namespace);
        follow_objects(api, watcher::Config::default().fields(&field), publish, |all| from_endpoints(all, port)).await;
    }
}

/// A client, and whether the API server serves EndpointSlices v1.
async fn connect(service: &Service) -> kube::Result<(Client, bool)> {
    let client = Client::try_default().await?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &service.namespace);
    match slices.list(&ListParams::default().limit(1)).await {
        Ok(_) => Ok((client, true)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok((client, false)),
        Err(error) => Err(error),
    }
}

/// Keeps the matching objects up to date, by name, and publishes what they come to after every change. A relisting
/// counts once it is whole.
async fn follow_objects<K>(
    api: Api<K>,
    config: watcher::Config,
    publish: &watch::Sender<BTreeSet<Address>>,
    addresses: impl Fn(&BTreeMap<String, K>) -> BTreeSet<Address>,
) where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watch_api(api, config).default_backoff());
    let (mut objects, mut listing) = (BTreeMap::new(), BTreeMap::new());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => drop(objects.insert(object.name_any(), object)),
            Ok(Event::Delete(object)) => drop(objects.remove(&object.name_any())),
            Ok(Event::Init) => listing = BTreeMap::new(),
            Ok(Event::InitApply(object)) => drop(listing.insert(object.name_any(), object)),
            Ok(Event::InitDone) => objects = std::mem::take(&mut listing),
            Err(error) => {
                tracing::warn!(%error, "the watch was interrupted; keeping the last set");
                continue;
            }
        }
        // While a list is being read again, `objects` is still the last whole one.
        let set = addresses(&objects);
        publish.send_if_modified(|present| std::mem::replace(present, set.clone()) != set);
    }
}

/// Ready endpoints; where there is none, those that are terminating but still serve.
fn from_slices(slices: &BTreeMap<String, EndpointSlice>, port: Option<&str>) -> BTreeSet<Address> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.values() {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let number =
            ports.iter().find(|found| port.is_none() || found.name.as_deref() == port).and_then(|port| port.port);
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let addresses = endpoint.addresses.iter().filter_map(|ip| address(ip, number));
            // An absent condition means ready (EndpointConditions' own documentation).
            if conditions.ready.unwrap_or(true) {
                ready.extend(addresses);
            } else if conditions.serving.unwrap_or(false) {
                serving.extend(addresses);
            }
        }
    }
    if ready.is_empty() { serving } else { ready }
}

fn from_endpoints(all: &BTreeMap<String, Endpoints>, port: Option<&str>) -> BTreeSet<Address> {
    let mut ready = BTreeSet::new();
    for subset in all.values().flat_map(|endpoints| endpoints.subsets.iter().flatten()) {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let Some(number) = ports.iter().find(|found| port.is_none() || found.name.as_deref() == port) else { continue };
        ready.extend(subset.addresses.iter().flatten().filter_map(|found| address(&found.ip, number.port)));
    }
    ready
}

/// `ip:port`, with the brackets of IPv6; nothing for what is no IP address (slices may hold domain names).
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

    fn slices(slices: &[Value]) -> BTreeMap<String, EndpointSlice> {
        let parse = |slice: &Value| serde_json::from_value(slice.clone()).expect("a slice");
        slices.iter().enumerate().map(|(index, slice)| (index.to_string(), parse(slice))).collect()
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
    fn slices_are_merged_and_conditions_respected() {
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
    fn terminating_endpoints_serve_only_when_nothing_else_is_left() {
        let terminating =
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let ready = json!({"addresses": ["10.0.0.2"], "conditions": {"ready": true}});
        check(&[slice(&json!([terminating]))], None, &["10.0.0.1:6000"]);
        check(&[slice(&json!([terminating])), slice(&json!([ready]))], None, &["10.0.0.2:6000"]);
    }

    #[test]
    fn endpoints_give_the_same_addresses() {
        let endpoints: Endpoints = serde_json::from_value(json!({"subsets": [{
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::2"}],
            "notReadyAddresses": [{"ip": "10.0.0.9"}],
            "ports": [{"name": "http", "port": 6000}],
        }]}))
        .expect("Endpoints");
        let all = BTreeMap::from([("replica".to_owned(), endpoints)]);
        assert_eq!(from_endpoints(&all, None), ["10.0.0.1:6000", "[fd00::2]:6000"].map(Address::from).into());
        assert!(from_endpoints(&all, Some("grpc")).is_empty());
    }

    #[test]
    fn services_are_named_by_namespace_name_and_port() {
        let parsed: Service = "shop/replica:http".parse().expect("well formed");
        assert_eq!(parsed, Service { namespace: "shop".into(), name: "replica".into(), port: Some("http".into()) });
        for bad in ["", "replica", "/replica", "shop/", "shop/replica:", "Shop/replica", "a/b/c", "shop/-x", "a/b:c:d"]
        {
            assert!(bad.parse::<Service>().is_err(), "{bad}");
        }
    }
}

//! The API external.metrics.k8s.io, by which an HPA reads the recommendation for its target. The API server passes the
//! requests on, since an APIService names this server. It answers from the latest advice, and changes nothing.
//!
//! A client needs no certificate: the answer is the number that `/metrics` exports.

use crate::advice::{Advice, AdvisedTarget, AdvisedTargets, NoAdvice};
use crate::config::ExternalMetricsConfig;
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};
use kubernetes::label_selector::{self, LabelSelector};
use kubernetes::name::ScalableName;
use serde_json::{Value, json};
use service::respond::{self, Reply};
use service::server::{ConnectionLimits, NamedListener, listen_as, serve_within};
use service::tls::Tls;
use service::wire::metric::DESIRED_REPLICAS;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;

/// The API group with its version.
const GROUP_VERSION: &str = "external.metrics.k8s.io/v1beta1";

/// The API group.
const GROUP: &str = "external.metrics.k8s.io";

/// Most connections of one client address. An API server keeps a few, but any pod of the cluster can reach the port:
/// without a limit, the connections of one pod could take all memory of the scaler.
const MAX_CONNECTIONS_PER_PEER: u32 = 64;

/// The time in which a handshake and the head of a request must arrive. API servers do not wait for longer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer of the API to a request: an object, or an error.
type Answer = Result<Value, ApiError>;

/// The reason why there is no object for a request.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("there is no {0} here; the metric is /apis/{GROUP_VERSION}/namespaces/NAMESPACE/{DESIRED_REPLICAS}")]
    UnknownPath(String),
    #[error("the metric {0:?} is unknown; the only metric is {DESIRED_REPLICAS}")]
    UnknownMetric(String),
    #[error("this server lists its resources only at /apis/{GROUP_VERSION}")]
    NotAggregated,
    #[error("{0} is not permitted; metrics can only be read, with GET")]
    Method(Method),
    #[error(transparent)]
    Selector(#[from] label_selector::Error),
    #[error(transparent)]
    NoAdvice(#[from] NoAdvice),
}

/// The bound address of the API and its certificate.
pub struct ExternalMetrics {
    listener: TcpListener,
    tls: Tls,
}

impl ExternalMetrics {
    /// Binds the address. Without a certificate, makes one that no client can verify.
    ///
    /// # Errors
    /// If the address is in use, or the certificate cannot be used.
    pub async fn bind(config: ExternalMetricsConfig) -> Result<Self> {
        let tls = match config.certificate {
            Some((certificate, key)) => {
                Tls::open(certificate, key).context("--external-metrics-certificate and --external-metrics-key")?
            }
            None => self_signed()?,
        };
        let listener = listen_as("external metrics on https://", config.listen).await?;
        Ok(Self { listener, tls })
    }

    /// Serves the advice for ever.
    pub async fn serve(self, advised: AdvisedTargets) {
        let handle = move |request: Request<Incoming>| {
            let uri = request.uri();
            let answer = answer(&advised, request.method(), uri.path(), uri.query(), request.headers());
            std::future::ready(reply(answer))
        };
        let listener = NamedListener { name: "external-metrics", listener: self.listener };
        let limits = ConnectionLimits {
            header_timeout: HEADER_TIMEOUT,
            max_connections_per_peer: Some(MAX_CONNECTIONS_PER_PEER),
            ..ConnectionLimits::default()
        };
        serve_within(listener, Some(self.tls), limits, None, handle, std::future::pending(), Duration::ZERO).await;
    }
}

/// TLS with a new certificate that is signed by its own key.
fn self_signed() -> Result<Tls> {
    let pair = rcgen::generate_simple_self_signed(["roundhouse-scaler".to_owned()]).context("make a certificate")?;
    Tls::of_pem(pair.cert.pem(), pair.signing_key.serialize_pem()).context("use the certificate that was made")
}

fn answer(
    advised: &AdvisedTargets,
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap<HeaderValue>,
) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::Method(method.clone()));
    }
    let segments: Vec<&str> = path.trim_start_matches('/').trim_end_matches('/').split('/').collect();
    match segments[..] {
        ["apis"] if wants_aggregated(headers) => Err(ApiError::NotAggregated),
        ["apis"] => Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})),
        ["apis", GROUP] => Ok(group()),
        ["apis", GROUP, "v1beta1"] => Ok(resources()),
        ["apis", GROUP, "v1beta1", "namespaces", namespace, DESIRED_REPLICAS] => {
            let selector = LabelSelector::of_query(query.unwrap_or_default())?;
            values(select(advised, namespace, &selector)?)
        }
        ["apis", GROUP, "v1beta1", "namespaces", _, metric] => Err(ApiError::UnknownMetric(metric.into())),
        _ => Err(ApiError::UnknownPath(path.into())),
    }
}

/// Whether the API server asks for the resources of all groups in one list. It asks for each group if it is refused.
fn wants_aggregated(headers: &HeaderMap<HeaderValue>) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("as=APIGroup"))
}

fn group() -> Value {
    let version = json!({"groupVersion": GROUP_VERSION, "version": "v1beta1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version})
}

fn resources() -> Value {
    let resource = json!({"name": DESIRED_REPLICAS, "singularName": "", "namespaced": true,
        "kind": "ExternalMetricValueList", "verbs": ["get"]});
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": [resource]})
}

/// The labels of a target's metric, values by their keys.
fn labels(name: &ScalableName) -> BTreeMap<String, String> {
    let (_, _, plural) = name.type_.path();
    [("target", name.name.as_str()), ("resource", plural)].map(|(key, value)| (key.into(), value.into())).into()
}

/// The only target in `namespace` whose labels `selector` picks. An HPA would add the values of several up.
fn select<'a>(
    advised: &'a AdvisedTargets,
    namespace: &str,
    selector: &LabelSelector,
) -> Result<&'a AdvisedTarget, NoAdvice> {
    let wanted = format!("target in {namespace} whose labels target and resource the selector picks");
    advised.only(wanted, |name, _flag| name.namespace == namespace && selector.matches(&labels(name)))
}

fn values(target: &AdvisedTarget) -> Answer {
    let Advice { replicas, confirmed, .. } = target.latest()?;
    let timestamp = humantime::format_rfc3339_seconds(SystemTime::now() - confirmed.elapsed());
    let value = json!({"metricName": DESIRED_REPLICAS, "metricLabels": labels(&target.name),
        "timestamp": timestamp.to_string(), "value": replicas.to_string()});
    Ok(json!({"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": [value]}))
}

impl ApiError {
    /// The HTTP status, and its name in Kubernetes.
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::UnknownPath(_) | Self::UnknownMetric(_) | Self::NoAdvice(NoAdvice::Unknown { .. }) => {
                (StatusCode::NOT_FOUND, "NotFound")
            }
            Self::NotAggregated => (StatusCode::NOT_ACCEPTABLE, "NotAcceptable"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::Selector(_) | Self::NoAdvice(NoAdvice::Ambiguous(_)) => (StatusCode::BAD_REQUEST, "BadRequest"),
            Self::NoAdvice(NoAdvice::Stale(_)) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        }
    }
}

fn reply(answer: Answer) -> Reply {
    let error = match answer {
        Ok(object) => return respond::json(StatusCode::OK, &object),
        Err(error) => error,
    };
    let (code, reason) = error.status();
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": error.to_string(), "reason": reason, "code": code.as_u16()});
    let mut reply = respond::json(code, &status);
    if code == StatusCode::METHOD_NOT_ALLOWED {
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::MAX_AGE;
    use std::net::Ipv4Addr;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tokio::sync::watch;
    use tokio::time::Instant;

    const METRIC: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/scaler_desired_replicas";

    /// Targets with the advice to run 7 replicas each.
    fn targets(flags: &[&str]) -> AdvisedTargets {
        let advice = Some(Advice { replicas: 7, confirmed: Instant::now(), max_age: MAX_AGE });
        let target =
            |flag: &&str| AdvisedTarget { name: flag.parse().expect("a name"), advice: watch::channel(advice).1 };
        flags.iter().map(target).collect()
    }

    fn get(advised: &AdvisedTargets, target: &str) -> Answer {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        answer(advised, &Method::GET, path, query, &HeaderMap::new())
    }

    #[tokio::test]
    async fn the_value_is_the_recommendation_for_the_selected_target() {
        let advised = targets(&["deployment:shop/replica", "statefulset:shop/front", "deployment:other/front"]);
        for (query, target, resource) in [
            ("labelSelector=target%3Dreplica", "replica", "deployments"),
            ("labelSelector=resource+in+%28statefulsets%29", "front", "statefulsets"),
            ("labelSelector=target!%3Dreplica", "front", "statefulsets"),
        ] {
            let list = get(&advised, &format!("{METRIC}?{query}")).expect(query);
            assert_eq!(list["kind"], "ExternalMetricValueList");
            let value = &list["items"][0];
            assert_eq!(value["metricLabels"], json!({"target": target, "resource": resource}), "{query}");
            assert_eq!((&value["metricName"], &value["value"]), (&json!(DESIRED_REPLICAS), &json!("7")), "{query}");
            let at = humantime::parse_rfc3339(value["timestamp"].as_str().expect("text")).expect("a time");
            assert!(at.elapsed().expect("in the past") < Duration::from_secs(5), "{value}");
        }
        let other = get(&advised, &METRIC.replace("shop", "other")).expect("the only target needs no selector");
        assert_eq!(other["items"].as_array().map(Vec::len), Some(1));
    }

    #[tokio::test]
    async fn one_client_cannot_hold_all_connections() {
        let config = ExternalMetricsConfig { listen: (Ipv4Addr::LOCALHOST, 0).into(), certificate: None };
        let server = ExternalMetrics::bind(config).await.expect("a port is free");
        let address = server.listener.local_addr().expect("the listener is bound");
        tokio::spawn(server.serve(AdvisedTargets::default()));
        let mut connections = Vec::new();
        for _ in 0..=MAX_CONNECTIONS_PER_PEER {
            connections.push(TcpStream::connect(address).await.expect("the server listens"));
        }
        // The server closes the last connection. It waits for the handshake of the others.
        let ended = async |connection: &mut TcpStream| connection.read(&mut [0]).await.unwrap_or_default() == 0;
        let mut last = connections.pop().expect("there are connections");
        assert!(ended(&mut last).await);
        for connection in &mut connections {
            let soon = Duration::from_millis(1);
            assert!(tokio::time::timeout(soon, ended(connection)).await.is_err(), "the connection is open");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_has_a_status_and_says_what_there_is() {
        let advised = targets(&["deployment:shop/replica", "statefulset:shop/replica"]);
        for (target, code, reason, words) in [
            (METRIC.replace("shop", "nowhere"), 404, "NotFound", "it advises deployment:shop/replica"),
            (format!("{METRIC}?labelSelector=target%3Dnone"), 404, "NotFound", "no target in shop"),
            (METRIC.replace("desired", "ready"), 404, "NotFound", "\"scaler_ready_replicas\" is unknown"),
            ("/openapi/v2".into(), 404, "NotFound", "there is no /openapi/v2 here"),
            (METRIC.into(), 400, "BadRequest", "name one of them"),
            (format!("{METRIC}?labelSelector=target%3Dreplica"), 400, "BadRequest", "name one of them"),
            (format!("{METRIC}?labelSelector=target+in+a"), 400, "BadRequest", "needs an opening parenthesis"),
        ] {
            check_error(get(&advised, &target), code, reason, words);
        }
        let one = format!("{METRIC}?labelSelector=resource%3Ddeployments");
        assert!(get(&advised, &one).is_ok());
        tokio::time::advance(MAX_AGE).await;
        check_error(get(&advised, &one), 503, "ServiceUnavailable", "no recent figures");
        let posted = answer(&advised, &Method::POST, METRIC, None, &HeaderMap::new());
        assert_eq!(reply(posted).headers()[ALLOW], "GET, HEAD");
    }

    fn check_error(answer: Answer, code: u16, reason: &str, words: &str) {
        let error = answer.expect_err(words);
        let (status, name) = error.status();
        assert_eq!((status.as_u16(), name), (code, reason), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn the_api_server_finds_the_resource() {
        let none = AdvisedTargets::default();
        let list = get(&none, "/apis/external.metrics.k8s.io/v1beta1").expect("a list");
        assert_eq!(list["resources"][0]["name"], DESIRED_REPLICAS);
        assert_eq!(get(&none, "/apis").expect("a list")["groups"][0]["name"], GROUP);
        assert_eq!(get(&none, "/apis/external.metrics.k8s.io/").expect("a group")["kind"], "APIGroup");
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(aggregated))]);
        check_error(answer(&none, &Method::GET, "/apis", None, &headers), 406, "NotAcceptable", "only at /apis/");
    }
}

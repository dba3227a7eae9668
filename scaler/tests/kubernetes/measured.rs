//! What pods use of the processor, through the API server's own aggregation: the tests serve metrics.k8s.io.

use crate::control_plane::{apply, control_plane, say};
use crate::deployment::{Scene, wish};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client};
use scaler::policy::{Pod, Stage};
use scaler::target::{Handle, deployment};
use serde_json::{Value, json};
use service::respond;
use service::tls::Tls;
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const EXTENSION: &str = "v1beta1.metrics.k8s.io";

/// The API server looks at an extension every few seconds, and the scaler asks every 15.
const LONG: Duration = Duration::from_secs(120);

/// Two steps of the HPA, 15 s each, and what they wait for.
const HPA: Duration = Duration::from_secs(180);

/// What is served.
#[derive(Clone)]
enum Manner {
    /// Pods by namespace and name, and what they use.
    Telling(BTreeMap<String, BTreeMap<String, String>>),
    /// Never answers.
    Hanging,
}

/// metrics.k8s.io, served by this process.
struct Extension {
    manner: Arc<Mutex<Manner>>,
    /// The questions.
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
    port: u16,
    address: IpAddr,
    client: Client,
}

impl Extension {
    /// Listens on the address by which this machine would reach others, as Endpoints may not hold loopback addresses;
    /// nothing where there is none.
    async fn start(client: Client) -> Option<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        // Sends nothing.
        socket.connect("192.0.2.1:9").ok()?;
        let address = socket.local_addr().ok()?.ip();
        if address.is_loopback() || address.is_unspecified() {
            return None;
        }
        let listener = TcpListener::bind((address, 0)).await.ok()?;
        let port = listener.local_addr().ok()?.port();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = rcgen::generate_simple_self_signed(["metrics".to_owned()]).expect("a certificate");
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let tls = Tls::open(certificate, key).expect("good");
        let manner = Arc::new(Mutex::new(Manner::Telling(BTreeMap::new())));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (told, noted) = (manner.clone(), asked.clone());
        let handle = move |request: Request<Incoming>| {
            // Read as long as the server is there.
            let _folder = &folder;
            let manner = told.lock().expect("whole").clone();
            if request.uri().path().ends_with("/pods") {
                noted.lock().expect("whole").push(request.uri().to_string());
            }
            async move {
                match manner {
                    Manner::Telling(pods) => answer(&request, &pods),
                    Manner::Hanging => std::future::pending().await,
                }
            }
        };
        let folderless = Arc::new(handle);
        let handle = move |request| folderless(request);
        let server = service::server::serve(listener, Some(tls), handle, std::future::pending(), Duration::ZERO);
        Some(Self { manner, asked, server: tokio::spawn(server), port, address, client })
    }

    fn is(&self, manner: Manner) {
        *self.manner.lock().expect("whole") = manner;
    }

    /// Says what a pod uses, from now on.
    fn tell(&self, namespace: &str, pod: &str, cpu: &str) {
        let mut manner = self.manner.lock().expect("whole");
        if let Manner::Telling(pods) = &mut *manner {
            pods.entry(namespace.into()).or_default().insert(pod.into(), cpu.into());
        }
    }

    fn knows(&self, namespace: &str, pod: &str) -> bool {
        match &*self.manner.lock().expect("whole") {
            Manner::Telling(pods) => pods.get(namespace).is_some_and(|pods| pods.contains_key(pod)),
            Manner::Hanging => false,
        }
    }

    /// Makes it a part of the API.
    async fn register(&self) {
        let services = Api::<Service>::namespaced(self.client.clone(), "default");
        let port = json!({"name": "https", "port": 443, "targetPort": self.port, "protocol": "TCP"});
        apply(&services, "metrics", json!({"spec": {"ports": [port]}})).await;
        let port = json!({"name": "https", "port": self.port, "protocol": "TCP"});
        let subset = json!({"addresses": [{"ip": self.address.to_string()}], "ports": [port]});
        apply(&Api::<Endpoints>::namespaced(self.client.clone(), "default"), "metrics", json!({"subsets": [subset]}))
            .await;
        let spec = json!({"group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"namespace": "default", "name": "metrics", "port": 443}});
        let extension = json!({"metadata": {"name": EXTENSION}, "spec": spec});
        let extension = serde_json::from_value(extension).expect("an APIService");
        let all = Api::<APIService>::all(self.client.clone());
        all.create(&PostParams::default(), &extension).await.expect("created");
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn answer(request: &Request<Incoming>, pods: &BTreeMap<String, BTreeMap<String, String>>) -> respond::Reply {
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    match path[..] {
        ["apis", "metrics.k8s.io", "v1beta1"] => {
            let kind = json!({"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]});
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
                "resources": [kind]});
            respond::json(StatusCode::OK, &list)
        }
        ["apis", "metrics.k8s.io", "v1beta1", "namespaces", namespace, "pods"] => {
            let none = BTreeMap::new();
            let item = |(name, cpu): (&String, &String)| {
                json!({"metadata": {"name": name, "namespace": namespace}, "timestamp": second(0), "window": "2s",
                    "containers": [{"name": "replica", "usage": {"cpu": cpu, "memory": "9Mi"}}]})
            };
            let items: Vec<Value> = pods.get(namespace).unwrap_or(&none).iter().map(item).collect();
            let list = json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
            respond::json(StatusCode::OK, &list)
        }
        _ => respond::not_found(request.uri().path(), "", ""),
    }
}

/// So many seconds before now.
fn second(before: i64) -> String {
    (Timestamp::now() - SignedDuration::from_secs(before)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The part of a pod's specification that says what it requests.
fn requesting(cpu: &str) -> Value {
    json!({"containers": [{"name": "replica", "image": "replica", "resources": {"requests": {"cpu": cpu}}}]})
}

/// What a kubelet would write of one that is ready since so many seconds.
fn ready(seconds: i64) -> Value {
    let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": second(seconds)});
    json!({"phase": "Running", "startTime": second(seconds + 10), "conditions": [condition]})
}

fn seen(target: &Handle) -> (Vec<Pod>, Option<String>) {
    target.state.borrow().pods.at(Instant::now())
}

async fn until(target: &Handle, what: &str, mut wanted: impl FnMut(&[Pod], Option<&str>) -> bool) -> Vec<Pod> {
    let began = Instant::now();
    loop {
        let (pods, unknown) = seen(target);
        if wanted(&pods, unknown.as_deref()) {
            return pods;
        }
        assert!(began.elapsed() < LONG, "not in time: {what}; {:?}", seen(target));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_unknown(target: &Handle, why: &str) {
    until(target, why, |_, unknown| unknown.is_some_and(|unknown| unknown.contains(why))).await;
}

#[tokio::test]
async fn what_pods_use_comes_through_the_api_server() {
    let Some(control_plane) = control_plane() else { return };
    let scene = Scene::with(control_plane.clone(), "measured", &requesting("500m")).await;
    let Some(extension) = Extension::start(scene.client.clone()).await else {
        return say("skipped: this machine has no address but loopback, which Endpoints may not hold");
    };
    let target = deployment::run(scene.spec(true), scene.client.clone());
    until_unknown(&target, "there is no metrics.k8s.io: install metrics-server").await;

    extension.register().await;
    let pods = scene.alive(1).await;
    scene.becomes(&pods[0], ready(40)).await;
    extension.tell("measured", &pods[0], "123456789n");
    extension.tell("measured", "another", "7");
    let found = until(&target, "a sample", |pods, _| pods.iter().any(|pod| pod.usage.is_some())).await;
    let [Pod { age, stage: Stage::Ready(since), request, usage: Some(usage) }] = found[..] else { panic!("{found:?}") };
    assert_eq!((request, usage.cores, usage.window), (0.5, 0.124, Duration::from_secs(2)));
    assert!(since >= Duration::from_secs(40) && age >= since + Duration::from_secs(9), "{found:?}");
    assert!(usage.age < LONG, "{usage:?}");
    let asked = extension.asked.lock().expect("whole").clone();
    assert!(
        asked.iter().any(|uri| uri.contains("/namespaces/measured/pods?") && uri.contains("app%3Dreplica")),
        "{asked:?}"
    );

    // A second pod, of which nothing is known yet.
    wish(&target, 2);
    let two = until(&target, "two pods", |pods, _| pods.len() == 2).await;
    assert_eq!(two.iter().filter(|pod| pod.usage.is_some()).count(), 1);
    assert!(two.iter().any(|pod| matches!(pod, Pod { stage: Stage::Pending, usage: None, .. })), "{two:?}");

    extension.tell("measured", &pods[0], "lots");
    until_unknown(&target, "uses \"lots\" of the processor").await;

    // It hangs, and nothing else waits for it.
    extension.is(Manner::Hanging);
    until_unknown(&target, "metrics.k8s.io: ").await;
    wish(&target, 3);
    scene.alive(3).await;

    // The HPA itself, in the same place: from one to four, or with its behavior given to five, and then twice as many.
    extension.is(Manner::Telling(BTreeMap::new()));
    let courses = tokio::join!(
        course(Scene::with(control_plane.clone(), "hpa", &requesting("1")).await, &extension, json!(null), [1, 4, 8]),
        course(Scene::with(control_plane, "hpa-behavior", &requesting("1")).await, &extension, json!({}), [1, 5, 10]),
    );
    assert_eq!(courses, ((), ()));
    let all = Api::<APIService>::all(scene.client.clone());
    all.delete(EXTENSION, &DeleteParams::default()).await.expect("deleted");
}

/// Follows an HPA that holds 50 % while every pod uses six times what it requests.
async fn course(scene: Scene, extension: &Extension, behavior: Value, expected: [i32; 3]) {
    let namespace = scene.namespace.clone();
    let resource = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}});
    let spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "replica"},
        "minReplicas": 1, "maxReplicas": 20, "metrics": [{"type": "Resource", "resource": resource}], "behavior": behavior});
    autoscale(&scene, &spec).await;
    let began = Instant::now();
    let mut course = vec![1];
    while course.len() < expected.len() {
        let replicas = scene.replicas().await;
        if course.last() != Some(&replicas) {
            course.push(replicas);
        }
        for pod in scene.alive(usize::try_from(replicas).expect("a number")).await {
            if !extension.knows(&namespace, &pod) {
                scene.becomes(&pod, ready(60)).await;
                extension.tell(&namespace, &pod, "6");
            }
        }
        assert!(began.elapsed() < HPA, "not in time: {course:?} of {expected:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(course, expected, "{namespace}");
}

/// Creates an HPA, by whichever version of the API has `behavior`.
async fn autoscale(scene: &Scene, spec: &Value) {
    for version in ["v2", "v2beta2"] {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("autoscaling", version, "HorizontalPodAutoscaler"));
        let autoscalers = Api::namespaced_with(scene.client.clone(), &scene.namespace, &kind);
        let autoscaler = DynamicObject::new("cpu", &kind).data(json!({"spec": spec}));
        match autoscalers.create(&PostParams::default(), &autoscaler).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is no HPA with behavior");
}

#[tokio::test]
async fn without_the_right_to_list_metrics_that_is_said() {
    let Some(control_plane) = control_plane() else { return };
    let limited = control_plane.client_of("unmeasured").await;
    let scene = Scene::with(control_plane, "unmeasured", &requesting("1")).await;
    let roles = Api::<Role>::namespaced(scene.client.clone(), &scene.namespace);
    let bindings = Api::<RoleBinding>::namespaced(scene.client.clone(), &scene.namespace);
    let read =
        json!({"apiGroups": ["", "apps"], "resources": ["deployments", "pods"], "verbs": ["get", "list", "watch"]});
    apply(&roles, "scaler", json!({"rules": [read]})).await;
    let of_role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "scaler"});
    let to_user = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "unmeasured"}]);
    apply(&bindings, "scaler", json!({"roleRef": of_role, "subjects": to_user})).await;
    let target = deployment::run(scene.spec(true), limited);
    until_unknown(&target, "let the scaler list pods in metrics.k8s.io").await;
    assert_eq!(target.state.borrow().refusal, None, "other laws may go on");
}

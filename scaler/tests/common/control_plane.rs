//! A real Kubernetes control plane for tests, and objects in it. `KUBEBUILDER_ASSETS` names the folder with its
//! programs. If it is not set, the tests report that they were skipped. Tests that run at the same time share one
//! control plane. Each test has a namespace of its own.

#![allow(dead_code, reason = "each test program uses a part of this module")]

use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// The time limit of every wait. It is long, because busy machines are slow.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The script that runs control planes. `control-plane start FOLDER` starts one and prints the path of its kubeconfig.
/// `control-plane stop FOLDER` ends it.
fn script() -> PathBuf {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let script = folders.find_map(|folder| Some(folder.join("k8s/cluster/control-plane")).filter(|path| path.exists()));
    script.expect("the workspace has the script")
}

/// A control plane. It stops when the last test drops it.
pub(crate) struct ControlPlane {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

/// The running control plane, or a new one; `None` if `KUBEBUILDER_ASSETS` is not set.
pub(crate) fn control_plane() -> Option<Arc<ControlPlane>> {
    static RUNNING: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    running.upgrade().or_else(|| {
        let started = Arc::new(ControlPlane::start()?);
        *running = Arc::downgrade(&started);
        Some(started)
    })
}

impl ControlPlane {
    fn start() -> Option<Self> {
        if std::env::var_os("KUBEBUILDER_ASSETS").is_none_or(|folder| folder.is_empty()) {
            report(
                "skipped: KUBEBUILDER_ASSETS is not set; set it to a folder with etcd \
                 (github.com/etcd-io/etcd/releases), kube-apiserver, kube-controller-manager and kube-scheduler \
                 (dl.k8s.io, kubernetes-server-*.tar.gz)",
            );
            return None;
        }
        let folder = tempfile::tempdir().expect("temporary folders can be created");
        let [api, etcd] = [[0, 1, 2], [0, 10, 10]].map(free_ports);
        let output = Command::new(script())
            .arg("start")
            .arg(folder.path().join("control-plane"))
            .envs([("API_PORT", api.to_string()), ("ETCD_PORT", etcd.to_string())])
            .stderr(Stdio::inherit())
            .output()
            .expect("k8s/cluster/control-plane can be executed");
        assert!(
            output.status.success(),
            "the control plane did not start; see the messages of k8s/cluster/control-plane above"
        );
        let kubeconfig =
            String::from_utf8(output.stdout).expect("the script prints the path of a kubeconfig").trim().into();
        Some(Self { folder, kubeconfig })
    }

    async fn config(&self) -> Config {
        Config::from_custom_kubeconfig(self.kubeconfig(), &KubeConfigOptions::default())
            .await
            .expect("the kubeconfig names a cluster and a user")
    }

    /// A kubeconfig with all privileges.
    pub(crate) fn kubeconfig(&self) -> Kubeconfig {
        Kubeconfig::read_from(&self.kubeconfig).expect("the script has written a kubeconfig")
    }

    /// The path of the API server's certificate, which is self-signed; `None` if there is none.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        let path = self.folder.path().join("control-plane/certs/apiserver.crt");
        path.exists().then_some(path)
    }

    /// A client with all privileges.
    pub(crate) async fn client(&self) -> Client {
        Client::try_from(self.config().await).expect("the configuration makes a client")
    }

    /// A client that acts as `user`, who has only the privileges that Roles grant.
    pub(crate) async fn client_of(&self, user: &str) -> Client {
        let mut config = self.config().await;
        config.auth_info.impersonate = Some(user.into());
        Client::try_from(config).expect("the configuration makes a client")
    }

    /// A client with all privileges that reaches the API server through `proxy`, which can be interrupted.
    pub(crate) async fn client_through(&self, proxy: &ApiProxy) -> Client {
        let mut config = self.config().await;
        config.cluster_url = proxy.address().parse().expect("the proxy has a URL");
        Client::try_from(config).expect("the configuration makes a client")
    }

    /// Starts a proxy to the API server.
    pub(crate) async fn proxy(&self) -> ApiProxy {
        let api_port = self.config().await.cluster_url.port_u16().expect("the URL of the API server has a port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let mut proxy = ApiProxy { port: address.port(), api_port, task: None };
        drop(listener);
        proxy.restore().await;
        proxy
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let stopped = Command::new(script()).arg("stop").arg(self.folder.path().join("control-plane")).status();
        if !stopped.is_ok_and(|status| status.success()) {
            report("the control plane did not stop; end etcd and the programs kube-* by hand");
        }
    }
}

/// A TCP proxy to the API server, which can be interrupted.
pub(crate) struct ApiProxy {
    port: u16,
    api_port: u16,
    /// The task that forwards connections; `None` while the proxy is interrupted.
    task: Option<JoinHandle<()>>,
}

impl ApiProxy {
    /// The URL at which clients reach the API server through this proxy.
    pub(crate) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Ends all connections and refuses new ones.
    pub(crate) fn interrupt(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Accepts connections again.
    pub(crate) async fn restore(&mut self) {
        self.interrupt();
        let until = Instant::now() + TIMEOUT;
        let listener = loop {
            match tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "bind the proxy's port {}: {error}", self.port),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let api_port = self.api_port;
        self.task = Some(tokio::spawn(async move {
            // When this task is aborted, the set is dropped, which closes all connections.
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut far) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, api_port)).await {
                        let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }));
    }
}

/// Creates a namespace. Returns once pods can be created there.
pub(crate) async fn namespace(client: &Client, name: &str) {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("the JSON is a Namespace");
    let created = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await;
    created.unwrap_or_else(|error| panic!("create namespace {name}: {error}"));
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
    wait_for("the default ServiceAccount", async || accounts.get_opt("default").await.expect("the API server answers"))
        .await;
}

/// Creates a node that runs nothing, and reports it as ready every few seconds, as a kubelet would: the control plane
/// marks the pods of a silent node as not ready after a minute. Several tests may share a node, each while its tasks
/// run.
pub(crate) async fn node(client: &Client, name: &'static str, tasks: &mut JoinSet<()>) {
    let nodes = Api::<Node>::all(client.clone());
    apply(&nodes, name, json!({})).await;
    let report_ready = async move || {
        let now = Timestamp::now().to_string();
        let ready = json!({"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now});
        let status = json!({"status": {"conditions": [ready]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await
    };
    report_ready().await.expect("the node exists");
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            // The control plane may be stopping; then the heartbeat fails.
            let _result = report_ready().await;
        }
    });
}

/// Creates the object `name`, or changes it, by server-side apply.
pub(crate) async fn apply<K>(api: &Api<K>, name: &str, mut object: Value) -> K
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    object["metadata"]["name"] = name.into();
    let params = PatchParams::apply("test").force();
    api.patch(name, &params, &Patch::Apply(object))
        .await
        .unwrap_or_else(|error| panic!("apply {} {name}: {error}", K::kind(&())))
}

/// Waits until `look` finds a value. `what` names the value for the message of a failure.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "timed out after {TIMEOUT:?} waiting for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Prints on the process's standard error, which the test harness does not capture. So no test is skipped silently.
pub(crate) fn report(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

/// A port for which the ports at these distances are free at present. It is below the ports that the system gives to
/// connections. Otherwise a connection might take the port before the control plane opens it, some seconds later.
fn free_ports(distances: [u16; 3]) -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32768);
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    loop {
        let random = RandomState::new().hash_one(()) as u16;
        let port = 10_000 + random % (first.max(12_000) - 10_020);
        if distances.iter().all(|distance| is_free(port + distance)) {
            return port;
        }
    }
}

//! A real Kubernetes control plane for tests, and objects in it. `KUBEBUILDER_ASSETS` names the folder with its programs; without
//! it the tests say that they were skipped. Tests that run at the same time share one control plane; each test has a
//! namespace of its own.

#![allow(dead_code, reason = "each program of tests uses a part")]

use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Time limit of every wait. It is long, because busy machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `control-plane start FOLDER` starts a control plane and prints the path of a kubeconfig; `control-plane stop FOLDER`
/// ends it.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/cluster/control-plane");

/// One control plane, stopped when the last test drops it.
pub(crate) struct ControlPlane {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

/// The control plane that runs already, or a new one; `None` if the programs of a control plane are missing.
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
            say(
                "skipped: KUBEBUILDER_ASSETS is not set; let it name a folder with etcd (github.com/etcd-io/etcd/releases), \
                 kube-apiserver, kube-controller-manager and kube-scheduler (dl.k8s.io, kubernetes-server-*.tar.gz)",
            );
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [api, etcd] = [[0, 1, 2], [0, 10, 10]].map(free_ports);
        let output = Command::new(SCRIPT)
            .arg("start")
            .arg(folder.path().join("control-plane"))
            .envs([("API_PORT", api.to_string()), ("ETCD_PORT", etcd.to_string())])
            .stderr(Stdio::inherit())
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "the control plane did not start");
        let kubeconfig = String::from_utf8(output.stdout).expect("a path").trim().into();
        Some(Self { folder, kubeconfig })
    }

    async fn config(&self) -> Config {
        Config::from_custom_kubeconfig(self.kubeconfig(), &KubeConfigOptions::default()).await.expect("complete")
    }

    /// A kubeconfig with all privileges.
    pub(crate) fn kubeconfig(&self) -> Kubeconfig {
        Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig")
    }

    /// The certificate of the API server, which it signed itself.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        let path = self.folder.path().join("control-plane/certs/apiserver.crt");
        path.exists().then_some(path)
    }

    /// A client with all privileges.
    pub(crate) async fn client(&self) -> Client {
        Client::try_from(self.config().await).expect("a client")
    }

    /// A client that acts as `user`, who has only the privileges that Roles grant.
    pub(crate) async fn client_of(&self, user: &str) -> Client {
        let mut config = self.config().await;
        config.auth_info.impersonate = Some(user.into());
        Client::try_from(config).expect("a client")
    }

    /// A client with all privileges that reaches the API server over `line`, which can be cut.
    pub(crate) async fn client_over(&self, line: &Line) -> Client {
        let mut config = self.config().await;
        config.cluster_url = line.address().parse().expect("an address");
        Client::try_from(config).expect("a client")
    }

    /// Opens a [`Line`] to the API server.
    pub(crate) async fn line(&self) -> Line {
        let port = self.config().await.cluster_url.port_u16().expect("the API server's port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let mut line = Line { port: listener.local_addr().expect("bound").port(), to: port, carrying: None };
        drop(listener);
        line.mend().await;
        line
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let stopped = Command::new(SCRIPT).arg("stop").arg(self.folder.path().join("control-plane")).status();
        if !stopped.is_ok_and(|status| status.success()) {
            say("the control plane did not stop");
        }
    }
}

/// A TCP proxy to the API server, which can be cut and mended.
pub(crate) struct Line {
    port: u16,
    to: u16,
    carrying: Option<JoinHandle<()>>,
}

impl Line {
    /// The URL at which clients reach the API server over this line.
    pub(crate) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Ends all connections and refuses new ones.
    pub(crate) fn cut(&mut self) {
        if let Some(carrying) = self.carrying.take() {
            carrying.abort();
        }
    }

    /// Accepts connections again.
    pub(crate) async fn mend(&mut self) {
        self.cut();
        let until = Instant::now() + PATIENCE;
        let listener = loop {
            match tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let to = self.to;
        self.carrying = Some(tokio::spawn(async move {
            // Dropping this task drops the set, which closes the connections.
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut far) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await {
                        let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }));
    }
}

/// Creates a namespace in which pods can be made.
pub(crate) async fn namespace(client: &Client, name: &str) {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a Namespace");
    let created = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await;
    created.expect("a Namespace");
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
    eventually("the default ServiceAccount", async || accounts.get_opt("default").await.expect("it answers")).await;
}

/// Creates a node that runs nothing, and says every few seconds that it is well, as a kubelet would: pods of a silent node are
/// marked as not ready after a minute. Any number of tests may keep the same node, each while its tasks run.
pub(crate) async fn node(client: &Client, name: &'static str, tasks: &mut JoinSet<()>) {
    let nodes = Api::<Node>::all(client.clone());
    apply(&nodes, name, json!({})).await;
    let is_well = async move || {
        let now = Timestamp::now().to_string();
        let ready = json!({"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now});
        let status = json!({"status": {"conditions": [ready]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await
    };
    is_well().await.expect("it is there");
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            // The control plane may be stopping; then the heartbeat fails.
            let _told = is_well().await;
        }
    });
}

/// Creates or changes any object that has a typed form.
pub(crate) async fn apply<K>(api: &Api<K>, name: &str, mut object: Value) -> K
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    object["metadata"]["name"] = name.into();
    let params = PatchParams::apply("test").force();
    api.patch(name, &params, &Patch::Apply(object)).await.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Prints on the real standard error, so that no test is skipped silently.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

/// A port for which the ports at these distances are free at present. It lies below the ports that the system gives to
/// connections, since the control plane opens its last port only after some seconds.
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

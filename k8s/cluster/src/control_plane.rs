//! The control plane of a local cluster: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes.
//! The kernel kills them when this process ends, even if this process is killed.

use crate::binaries;
use crate::network::IpFamilies;
use anyhow::{Context, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::KeyPair;
use serde_json::json;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The port of the API server, which is that of MicroK8s. NetworkPolicies that permit only the usual ports 443 and 6443
/// keep programs from it there.
const PORT: u16 = 16443;

/// Time in which the API server must become ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time limit for an answer of the API server's `/readyz`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The name in the API server's certificate that all clients check, whichever address they connect to.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// Number of lines of the API server's log in an error message.
const LOG_LINES: usize = 5;

/// The running control plane. Its processes are killed when this value is dropped.
pub struct ControlPlane {
    /// The folder with the programs.
    binaries: PathBuf,
    /// The folder for keys, data and logs.
    folder: PathBuf,
    /// The versions of the Internet Protocol of the cluster.
    families: IpFamilies,
    /// The token of the user `admin`, who has all privileges.
    token: String,
    /// The process of the API server; `None` after [`ControlPlane::kill_api_server`].
    api_server: Option<Child>,
    /// The process of the controller manager; `None` before its start.
    controller_manager: Option<Child>,
    /// The processes of etcd and the scheduler, in the order of their starts.
    others: Vec<Child>,
}

impl ControlPlane {
    /// Starts the programs in the folder `binaries`. Keys, data and logs go to `folder`. The calling thread must be in
    /// the cluster's network.
    ///
    /// # Errors
    /// If a program cannot be started, or the API server does not become ready. The message then has the last lines of
    /// the API server's log.
    pub async fn start(binaries: PathBuf, folder: PathBuf, families: IpFamilies) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let random = "/proc/sys/kernel/random/uuid";
        let token = fs::read_to_string(random).with_context(|| format!("read {random}"))?.trim().to_owned();
        write(&folder.join("tokens.csv"), &format!("{token},admin,admin,system:masters\n"))?;
        let key = KeyPair::generate().context("generate the key for the tokens of ServiceAccounts")?;
        write(&folder.join("accounts.key"), &key.serialize_pem())?;
        write(&folder.join("accounts.pub"), &key.public_key_pem())?;
        let (api_server, controller_manager) = (None, None);
        let mut control_plane =
            Self { binaries, folder, families, token, api_server, controller_manager, others: Vec::new() };
        let etcd = control_plane.spawn("etcd", &control_plane.etcd_flags())?;
        control_plane.others.push(etcd);
        control_plane.start_api_server().await?;
        write(&control_plane.kubeconfig_path(), &control_plane.kubeconfig(&control_plane.url())?)?;
        control_plane.restart_controller_manager(&[])?;
        let scheduler = control_plane.spawn("kube-scheduler", &control_plane.scheduler_flags())?;
        control_plane.others.push(scheduler);
        Ok(control_plane)
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// If the API server ends, or is not ready within a minute.
    pub async fn start_api_server(&mut self) -> Result<()> {
        self.api_server = Some(self.spawn("kube-apiserver", &self.api_server_flags())?);
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_ready().await {
            let status = self.api_server.as_mut().map(Child::try_wait).transpose();
            let status = status.context("check whether the API server has ended")?.flatten();
            let log = self.log("kube-apiserver");
            let end = || format!("the last lines of its log {} are:\n{}", log.display(), last_lines(&log, LOG_LINES));
            if let Some(status) = status {
                bail!("the API server has ended ({status}); {}", end());
            }
            ensure!(Instant::now() <= deadline, "the API server is not ready after {START_TIMEOUT:?}; {}", end());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Kills the API server. The cluster's objects stay in etcd.
    ///
    /// # Errors
    /// If the API server does not run.
    pub fn kill_api_server(&mut self) -> Result<()> {
        let mut api_server = self.api_server.take().context("the API server does not run")?;
        api_server.kill().context("kill the API server")?;
        api_server.wait().context("wait for the end of the API server")?;
        Ok(())
    }

    /// Starts the controller manager with these flags beside its usual ones, after the end of the present one. Its
    /// controllers remember nothing of the time before, such as the recommendations of an HPA.
    ///
    /// # Errors
    /// If the program cannot be ended or started.
    pub fn restart_controller_manager(&mut self, flags: &[&str]) -> Result<()> {
        if let Some(mut running) = self.controller_manager.take() {
            running.kill().context("kill the controller manager")?;
            running.wait().context("wait for the end of the controller manager")?;
        }
        let mut all = self.controller_manager_flags();
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        self.controller_manager = Some(self.spawn("kube-controller-manager", &all)?);
        Ok(())
    }

    /// A client with all privileges.
    ///
    /// # Errors
    /// If the API server has not made its certificate yet.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig(&self.url())?)?;
        Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?)
    }

    /// The address of the API server in the cluster's network.
    pub fn address(&self) -> SocketAddr {
        (self.families.primary.node_address(), PORT).into()
    }

    /// The URL of the API server in the cluster's network.
    fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The path of the kubeconfig for programs in the cluster's network.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The text of a kubeconfig for a client that reaches the API server at the URL `server`. It gives all privileges.
    ///
    /// # Errors
    /// If the API server has not made its certificate yet.
    pub fn kubeconfig(&self, server: &str) -> Result<String> {
        let authority = self.certificate_path();
        ensure!(authority.exists(), "the API server has not made its certificate {} yet", authority.display());
        let cluster = json!({"server": server, "certificate-authority": authority, "tls-server-name": SERVER_NAME});
        let context = json!({"cluster": "roundhouse", "user": "admin", "namespace": "roundhouse"});
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "roundhouse",
            "clusters": [{"name": "roundhouse", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "roundhouse", "context": context}],
        });
        Ok(serde_json::to_string_pretty(&kubeconfig)?)
    }

    /// The API server's self-signed certificate as PEM.
    ///
    /// # Errors
    /// If the API server has not made its certificate yet.
    pub fn certificate(&self) -> Result<String> {
        let path = self.certificate_path();
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn certificate_path(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    async fn is_ready(&self) -> bool {
        let Ok(client) = self.client().await else { return false };
        let Ok(request) = hyper::Request::get("/readyz").body(Vec::new()) else { return false };
        let answer = tokio::time::timeout(PROBE_TIMEOUT, client.request_text(request)).await;
        matches!(answer, Ok(Ok(_)))
    }

    fn etcd_flags(&self) -> Vec<String> {
        let client = "http://127.0.0.1:2379";
        vec![
            format!("--data-dir={}", self.folder.join("etcd").display()),
            // No data is needed after a crash.
            "--unsafe-no-fsync".into(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
        ]
    }

    /// The feature gates of two versions of the Internet Protocol, for programs before Kubernetes 1.21. Later ones need
    /// none, and those from 1.25 refuse it.
    fn feature_gates(&self) -> Option<String> {
        let is_needed = self.families.secondary.is_some() && self.minor_version().is_some_and(|minor| minor < 21);
        is_needed.then(|| "--feature-gates=IPv6DualStack=true".into())
    }

    /// The minor version of the programs, which `kube-apiserver --version` prints as in `Kubernetes v1.20.2`; `None` if
    /// it prints something else.
    fn minor_version(&self) -> Option<u32> {
        let output =
            Command::new(binaries::program(&self.binaries, "kube-apiserver")).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.split('.').nth(1)?.parse().ok()
    }

    fn api_server_flags(&self) -> Vec<String> {
        let mut flags = vec![
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--bind-address={}", self.families.primary.node_address()),
            format!("--advertise-address={}", self.families.primary.node_address()),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={}", self.folder.join("certificates").display()),
            format!("--service-cluster-ip-range={}", self.families.service_ranges()),
            "--authorization-mode=RBAC".into(),
            format!("--token-auth-file={}", self.folder.join("tokens.csv").display()),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-signing-key-file={}", self.folder.join("accounts.key").display()),
            format!("--service-account-key-file={}", self.folder.join("accounts.pub").display()),
        ];
        flags.extend(self.feature_gates());
        flags
    }

    fn controller_manager_flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--kubeconfig={}", self.kubeconfig_path().display()),
            format!("--service-account-private-key-file={}", self.folder.join("accounts.key").display()),
            format!("--root-ca-file={}", self.certificate_path().display()),
            "--use-service-account-credentials".into(),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", self.folder.join("controller-manager").display()),
        ];
        flags.extend(self.feature_gates());
        flags
    }

    fn scheduler_flags(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.kubeconfig_path().display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", self.folder.join("scheduler").display()),
        ]
    }

    fn spawn(&self, name: &str, flags: &[String]) -> Result<Child> {
        let path = self.log(name);
        let opened = || format!("open {}", path.display());
        let log = File::options().create(true).append(true).open(&path).with_context(opened)?;
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(binaries::program(&self.binaries, name)).args(flags);
        command.stdin(Stdio::null()).stdout(log.try_clone().with_context(opened)?).stderr(log);
        command.spawn().with_context(|| format!("start {name}"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let first = self.api_server.iter_mut().chain(&mut self.controller_manager);
        for child in first.chain(self.others.iter_mut().rev()) {
            // Killing fails if the process has ended already. Waiting removes it from the process table in any case.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The last `count` lines of a file, or an empty text if the file cannot be read.
fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler, as processes. They end with this one.

use crate::network;
use anyhow::{Context, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::KeyPair;
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the API server listens, on the node's address.
pub const PORT: u16 = 6443;

/// For everything to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A name that stands in the API server's certificate.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// The running processes.
pub struct ControlPlane {
    binaries: PathBuf,
    folder: PathBuf,
    token: String,
    /// Absent while it is down on purpose.
    api: Option<Child>,
    others: Vec<Child>,
}

impl ControlPlane {
    /// Starts everything; keys, data and logs are in `folder`. This thread must be in the cluster's network.
    ///
    /// # Errors
    /// When something does not start; the message has the last lines of its log.
    pub async fn start(binaries: PathBuf, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let token = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
        fs::write(folder.join("tokens.csv"), format!("{token},admin,admin,system:masters\n"))?;
        let key = KeyPair::generate()?;
        fs::write(folder.join("accounts.key"), key.serialize_pem())?;
        fs::write(folder.join("accounts.pub"), key.public_key_pem())?;
        let mut control_plane = Self { binaries, folder, token, api: None, others: Vec::new() };
        let etcd = control_plane.spawn("etcd", &control_plane.etcd())?;
        control_plane.others.push(etcd);
        control_plane.start_api().await?;
        fs::write(control_plane.own_kubeconfig(), control_plane.kubeconfig(&url())?)?;
        for (name, arguments) in [
            ("kube-controller-manager", control_plane.controller_manager()),
            ("kube-scheduler", control_plane.scheduler()),
        ] {
            let child = control_plane.spawn(name, &arguments)?;
            control_plane.others.push(child);
        }
        Ok(control_plane)
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become so.
    pub async fn start_api(&mut self) -> Result<()> {
        self.api = Some(self.spawn("kube-apiserver", &self.api_server())?);
        let until = Instant::now() + PATIENCE;
        loop {
            if self.is_ready().await {
                return Ok(());
            }
            let ended = self.api.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > until {
                bail!("the API server is not ready; its log ends so:\n{}", self.end_of_log("kube-apiserver"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills the API server. Whatever it holds is in etcd.
    ///
    /// # Errors
    /// When it is down already.
    pub fn kill_api(&mut self) -> Result<()> {
        let mut api = self.api.take().context("the API server is down already")?;
        api.kill()?;
        api.wait()?;
        Ok(())
    }

    /// Who may do everything.
    ///
    /// # Errors
    /// When the API server has not made its certificate yet.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig(&url())?)?;
        Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?)
    }

    /// For programs, in this network.
    pub fn own_kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// For whoever reaches the API server at this address.
    ///
    /// # Errors
    /// When the API server has not made its certificate yet.
    pub fn kubeconfig(&self, server: &str) -> Result<String> {
        let authority = self.folder.join("certificates/apiserver.crt");
        ensure!(authority.exists(), "the API server has not made its certificate yet");
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

    /// Its certificate, by which clients know it.
    ///
    /// # Errors
    /// When it has not made one yet.
    pub fn authority(&self) -> Result<String> {
        let path = self.folder.join("certificates/apiserver.crt");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    async fn is_ready(&self) -> bool {
        let Ok(client) = self.client().await else { return false };
        let Ok(request) = hyper::Request::get("/readyz").body(Vec::new()) else { return false };
        let asked = tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await;
        matches!(asked, Ok(Ok(_)))
    }

    fn etcd(&self) -> Vec<String> {
        let client = "http://127.0.0.1:2379";
        vec![
            format!("--data-dir={}", self.folder.join("etcd").display()),
            // It is gone with this process anyway.
            "--unsafe-no-fsync".into(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
        ]
    }

    fn api_server(&self) -> Vec<String> {
        vec![
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--bind-address={}", network::NODE),
            format!("--advertise-address={}", network::NODE),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={}", self.folder.join("certificates").display()),
            format!("--service-cluster-ip-range={}", network::SERVICES),
            "--authorization-mode=RBAC".into(),
            format!("--token-auth-file={}", self.folder.join("tokens.csv").display()),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-signing-key-file={}", self.folder.join("accounts.key").display()),
            format!("--service-account-key-file={}", self.folder.join("accounts.pub").display()),
            // Extensions are reached by the addresses behind their Service.
            "--enable-aggregator-routing=true".into(),
        ]
    }

    fn controller_manager(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.own_kubeconfig().display()),
            format!("--service-account-private-key-file={}", self.folder.join("accounts.key").display()),
            format!("--root-ca-file={}", self.folder.join("certificates/apiserver.crt").display()),
            "--use-service-account-credentials".into(),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", self.folder.join("controller-manager").display()),
        ]
    }

    fn scheduler(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.own_kubeconfig().display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", self.folder.join("scheduler").display()),
        ]
    }

    fn spawn(&self, name: &str, arguments: &[String]) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log(name))?;
        // Whatever ends this process ends it too.
        let mut command = Command::new("setpriv");
        let own = self.binaries.join(name);
        // etcd may come from elsewhere.
        let program = if own.is_file() { own } else { name.into() };
        command.arg("--pdeathsig=KILL").arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("start {name}"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn end_of_log(&self, name: &str) -> String {
        end(&self.log(name), 5)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in self.api.iter_mut().chain(self.others.iter_mut().rev()) {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Where the API server is in the cluster's network.
pub fn url() -> String {
    format!("https://{}:{PORT}", network::NODE)
}

/// The last lines of a file.
pub fn end(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

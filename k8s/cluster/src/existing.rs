//! Access to a cluster that exists already. The checks run in a new namespace, which is deleted at the end.

use crate::access::{Cluster, ClusterOrigin};
use crate::kubectl::Kubectl;
use crate::paths;
use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Time that kubectl waits until the namespace is deleted. Its pods take up to 30 s to drain.
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

/// The flags that name an existing cluster, and the manifests to apply to it.
#[derive(Debug, Clone, clap::Args)]
pub struct ExistingOptions {
    /// Kubeconfig of an existing cluster; the checks run there in a new namespace, which is deleted at the end, and no
    /// cluster is started
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; by default its current context
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// Folder with the kustomization to apply; by default k8s/base
    #[arg(long, value_name = "FOLDER", requires = "kubeconfig")]
    pub apply: Option<PathBuf>,
    /// Registry and path of the images, such as registry.example/team for registry.example/team/replica; by default
    /// roundhouse.invalid, whose images must be on the nodes; images that the kustomization of --apply renames keep their
    /// names
    #[arg(long, value_name = "PREFIX", requires = "kubeconfig")]
    pub image_prefix: Option<String>,
}

/// A namespace that is deleted when this value is dropped, which also happens after a failure, a panic or Ctrl-C.
pub struct TemporaryNamespace {
    kubectl: Kubectl,
}

impl TemporaryNamespace {
    /// Creates the namespace of `kubectl`. Like k8s/namespace, it enforces the restricted pod security standard.
    async fn create(kubectl: Kubectl) -> Result<Self> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let metadata = json!({"name": kubectl.namespace(), "labels": labels});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        // This value must exist before the request. If the answer is lost, the API server may still have created the
        // namespace, which dropping this value deletes.
        let temporary = Self { kubectl };
        let create = temporary.kubectl.run_with_input(&["create", "-f", "-"], &namespace.to_string()).await;
        create.with_context(|| format!("create the namespace {}", temporary.kubectl.namespace()))?;
        Ok(temporary)
    }
}

impl Drop for TemporaryNamespace {
    fn drop(&mut self) {
        let name = self.kubectl.namespace();
        println!("deleting the namespace {name}");
        let timeout = format!("--timeout={}s", DELETE_TIMEOUT.as_secs());
        let delete = ["delete", "namespace", name, "--ignore-not-found", &timeout];
        let mut command = Command::new("kubectl");
        command.args(self.kubectl.arguments(&delete)).stdin(Stdio::null());
        let message = match command.output() {
            Ok(output) if output.status.success() => return,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!(
            "cannot delete the namespace {name}: {}\ndelete it with: kubectl delete namespace {name}",
            message.trim()
        );
    }
}

/// Connects to the cluster of `kubeconfig` in `context` (the file's current context if `None`) and creates a namespace
/// in it. Empties `folder`, to which reports go.
///
/// # Errors
/// If the kubeconfig is invalid, the API server cannot be reached, or it refuses to create the namespace.
pub async fn connect(kubeconfig: &Path, context: Option<String>, folder: PathBuf) -> Result<Cluster> {
    let folder_lock = paths::reserve(&folder)?;
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(read, &options).await;
    let invalid = || format!("{} cannot be used", kubeconfig.display());
    let client = Client::try_from(config.with_context(invalid)?).with_context(invalid)?;
    // This request comes before the namespace is created. If it fails, there is nothing to delete.
    let version = client.apiserver_version().await;
    version.with_context(|| format!("connect to the API server of {}", kubeconfig.display()))?;
    let namespace = format!("roundhouse-check-{:08x}", rand::random::<u32>());
    let kubectl = Kubectl::new(kubeconfig.to_owned(), context, namespace);
    let origin = ClusterOrigin::Existing(TemporaryNamespace::create(kubectl.clone()).await?);
    Ok(Cluster { origin, client, kubectl, folder, folder_lock })
}

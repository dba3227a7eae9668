//! Runs kubectl. The checks use it for the tasks for which a user would use it.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Versions of APIs in the manifests, each with the version that older API servers serve with the same fields:
/// PodDisruptionBudgets before 1.21, and HPAs before 1.23.
const OLDER_VERSIONS: [(&str, &str); 2] = [("policy/v1", "policy/v1beta1"), ("autoscaling/v2", "autoscaling/v2beta2")];

/// The flags of kubectl that select a cluster and a namespace.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    context: Option<String>,
    namespace: String,
}

/// The exit status and the output of kubectl.
struct KubectlOutput {
    succeeded: bool,
    stdout: String,
    stderr: String,
}

impl Kubectl {
    /// kubectl for the cluster of `kubeconfig` in `context` (the file's current context if `None`). Commands act in
    /// `namespace`, unless their arguments name another namespace.
    pub fn new(kubeconfig: PathBuf, context: Option<String>, namespace: impl Into<String>) -> Self {
        Self { kubeconfig, context, namespace: namespace.into() }
    }

    /// The namespace in which commands act.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The flags that select cluster and namespace, followed by `arguments`.
    pub fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let mut all =
            vec![format!("--kubeconfig={}", self.kubeconfig.display()), format!("--namespace={}", self.namespace)];
        all.extend(self.context.iter().map(|context| format!("--context={context}")));
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        all
    }

    /// Runs kubectl. Returns its standard output.
    ///
    /// # Errors
    /// If kubectl fails. The message has its standard error.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with_input(arguments, "").await
    }

    /// Runs kubectl with `input` as its standard input. Returns its standard output.
    ///
    /// # Errors
    /// If kubectl fails. The message has its standard error.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.output(arguments, input).await?;
        ensure!(output.succeeded, "kubectl {} failed: {}", arguments.join(" "), output.stderr.trim());
        Ok(output.stdout)
    }

    /// Whether the ServiceAccount `account` of the namespace may do `action`, which has the form
    /// `VERB RESOURCE[/NAME] [FLAG]`.
    ///
    /// # Errors
    /// If kubectl answers neither yes nor no.
    pub async fn can_i(&self, account: &str, action: &str) -> Result<bool> {
        let user = format!("--as=system:serviceaccount:{}:{account}", self.namespace);
        let mut arguments = vec!["auth", "can-i", &user];
        arguments.extend(action.split(' '));
        let output = self.output(&arguments, "").await?;
        match output.stdout.trim() {
            "yes" => Ok(true),
            answer if answer.starts_with("no") => Ok(false),
            answer => bail!(
                "kubectl auth can-i {action} must answer yes or no, but printed {answer:?}: {}",
                output.stderr.trim()
            ),
        }
    }

    /// Applies the manifests of the kustomization in `folder`.
    ///
    /// # Errors
    /// If kubectl cannot read the folder, or the API server refuses a manifest.
    pub async fn apply(&self, folder: &Path) -> Result<()> {
        let folder = folder.display().to_string();
        let mut manifests = self.run(&["kustomize", &folder]).await?;
        for (version, older) in OLDER_VERSIONS {
            if !self.serves(version).await? {
                manifests = manifests.replace(&format!("apiVersion: {version}\n"), &format!("apiVersion: {older}\n"));
            }
        }
        self.run_with_input(&["apply", "-f", "-"], &manifests).await.map(drop)
    }

    /// Whether the API server serves a version of an API, such as `policy/v1`.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn serves(&self, version: &str) -> Result<bool> {
        Ok(self.run(&["api-versions"]).await?.lines().any(|served| served == version))
    }

    async fn output(&self, arguments: &[&str], input: &str) -> Result<KubectlOutput> {
        let mut command = Command::new("kubectl");
        command.args(self.arguments(arguments)).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().context("run kubectl; on Debian and Ubuntu: apt-get install kubernetes-client")?;
        let mut stdin = child.stdin.take().expect("standard input is piped");
        // Writing fails if kubectl exits before it has read everything. Its exit status is checked below.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.context("wait for kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(KubectlOutput {
            succeeded: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }
}

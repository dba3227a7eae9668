//! kubectl, as people use it.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs it on one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    namespace: &'static str,
}

impl Kubectl {
    /// On the cluster of this file, in this namespace unless told otherwise.
    pub fn new(kubeconfig: PathBuf, namespace: &'static str) -> Self {
        Self { kubeconfig, namespace }
    }

    /// What it prints.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, "").await
    }

    /// The same, with something on its standard input.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let (succeeded, printed, said) = self.attempt(arguments, input).await?;
        ensure!(succeeded, "kubectl {}: {}", arguments.join(" "), said.trim());
        Ok(printed)
    }

    /// Whether a ServiceAccount may do something; `question` is `VERB RESOURCE[/NAME]`.
    ///
    /// # Errors
    /// When that could not be asked.
    pub async fn can(&self, account: &str, question: &str) -> Result<bool> {
        let user = format!("--as=system:serviceaccount:{}:{account}", self.namespace);
        let mut arguments = vec!["auth", "can-i", &user];
        arguments.extend(question.split(' '));
        let (_, printed, said) = self.attempt(&arguments, "").await?;
        match printed.trim() {
            "yes" => Ok(true),
            answer if answer.starts_with("no") => Ok(false),
            answer => bail!("kubectl auth can-i {question}: {answer} {said}"),
        }
    }

    /// Applies what a folder's kustomization makes.
    ///
    /// # Errors
    /// When kubectl cannot read it, or the API server refuses it.
    pub async fn apply(&self, folder: &Path) -> Result<()> {
        let folder = folder.display().to_string();
        let mut manifests = self.run(&["kustomize", &folder]).await?;
        // Before 1.21 the same kind was served under another version.
        if !self.run(&["api-versions"]).await?.lines().any(|version| version == "policy/v1") {
            manifests = manifests.replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n");
        }
        self.run_with(&["apply", "-f", "-"], &manifests).await.map(drop)
    }

    async fn attempt(&self, arguments: &[&str], input: &str) -> Result<(bool, String, String)> {
        let mut command = Command::new("kubectl");
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--namespace={}", self.namespace));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("run kubectl (Debian: apt-get install kubernetes-client)")?;
        let mut pipe = child.stdin.take().context("standard input is piped")?;
        // What it does not want to read is no fault.
        let _closed = pipe.write_all(input.as_bytes()).await;
        drop(pipe);
        let output = child.wait_with_output().await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }
}

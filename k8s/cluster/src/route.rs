//! A URL by which this process reaches the dispatcher.
//!
//! The address of the Service is used where it is reachable: in the network of a local cluster, on a node, in a pod.
//! Elsewhere requests go through `kubectl proxy` and the API server, which chooses a ready pod for each request.
//! `kubectl port-forward` is no alternative: it is bound to one pod and ends with it, so that replacing dispatchers
//! would fail requests.

use crate::access::Cluster;
use anyhow::{Context, Result};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Time in which a reachable address answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Time that `kubectl proxy` has to start.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);

/// A URL, and the proxy behind it if there is one.
pub struct Route {
    /// Where images are posted.
    pub url: String,
    /// Killed when dropped.
    _proxy: Option<Child>,
}

impl Route {
    /// Finds a route to the Service `dispatcher`, which must have a ready pod.
    ///
    /// # Errors
    /// If there is no such Service, or `kubectl proxy` does not start.
    pub async fn to_dispatcher(cluster: &Cluster) -> Result<Self> {
        let address = format!("{}:80", cluster.service_address("dispatcher").await?);
        if is_reachable(&address).await {
            return Ok(Self { url: format!("http://{address}/predict"), _proxy: None });
        }
        let (proxy, address) = start_proxy(cluster).await?;
        let namespace = cluster.kubectl.namespace();
        let path = format!("api/v1/namespaces/{namespace}/services/dispatcher:http/proxy/predict");
        Ok(Self { url: format!("http://{address}/{path}"), _proxy: Some(proxy) })
    }
}

/// Whether a program of the workspace answers at `address` (`host:port`).
pub async fn is_reachable(address: &str) -> bool {
    let answer = service::fetch::get(address, "/livez", ANSWER_TIMEOUT).await;
    answer.is_ok_and(|(status, _)| status.is_success())
}

/// Starts `kubectl proxy`. Returns the process and the `host:port` where it listens.
async fn start_proxy(cluster: &Cluster) -> Result<(Child, String)> {
    let mut command = Command::new("kubectl");
    command.args(cluster.kubectl.arguments(&["proxy", "--port=0"])).kill_on_drop(true);
    let mut proxy = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start kubectl proxy")?;
    let stdout = proxy.stdout.take().context("standard output is piped")?;
    let mut line = String::new();
    let read = tokio::time::timeout(PROXY_TIMEOUT, BufReader::new(stdout).read_line(&mut line)).await;
    read.context("kubectl proxy does not start")??;
    // Starting to serve on 127.0.0.1:40123
    let address = line.trim().rsplit(' ').next().filter(|word| word.contains(':'));
    let address = address.with_context(|| format!("kubectl proxy does not tell its address: {line:?}"))?;
    Ok((proxy, address.to_owned()))
}

//! Finds a URL at which this process reaches the dispatcher.
//!
//! Where the address of the Service is reachable, the URL has this address: in the network of a local cluster, on a
//! node, and in a pod. Elsewhere requests go through `kubectl proxy` and the API server, which chooses a ready pod for
//! each request. `kubectl port-forward` would not do: it forwards to one pod, so that requests would fail when that
//! dispatcher is replaced.

use crate::access::Cluster;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Time after which an address without an answer counts as unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Time in which `kubectl proxy` must start.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);

/// A URL of the dispatcher, with the proxy that it leads to, if any.
pub struct Route {
    /// The URL to which images are posted, such as `http://10.96.0.7:80/predict`.
    pub url: String,
    /// The process of `kubectl proxy`, which is killed when this value is dropped; `None` if no proxy is needed.
    _proxy: Option<Child>,
}

impl Route {
    /// Finds a route to the Service `dispatcher`, which must have a ready pod.
    ///
    /// # Errors
    /// If there is no such Service, or `kubectl proxy` does not start.
    pub async fn to_dispatcher(cluster: &Cluster) -> Result<Self> {
        let address = SocketAddr::from((cluster.service_address("dispatcher").await?, 80)).to_string();
        if is_reachable(&address).await {
            return Ok(Self { url: format!("http://{address}/predict"), _proxy: None });
        }
        let (proxy, address) = start_proxy(cluster).await?;
        let namespace = cluster.kubectl.namespace();
        let path = format!("api/v1/namespaces/{namespace}/services/dispatcher:http/proxy/predict");
        Ok(Self { url: format!("http://{address}/{path}"), _proxy: Some(proxy) })
    }
}

/// Whether a program of the workspace answers at `address`, `host:port`.
pub async fn is_reachable(address: &str) -> bool {
    let answer = service::fetch::get(address, "/livez", ANSWER_TIMEOUT).await;
    answer.is_ok_and(|(status, _)| status.is_success())
}

/// Starts `kubectl proxy`. Returns the process and the address at which it listens, `host:port`.
async fn start_proxy(cluster: &Cluster) -> Result<(Child, String)> {
    let mut command = Command::new("kubectl");
    command.args(cluster.kubectl.arguments(&["proxy", "--port=0"])).kill_on_drop(true);
    let mut proxy = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start kubectl proxy")?;
    let stdout = proxy.stdout.take().expect("standard output is piped");
    let mut line = String::new();
    let read = tokio::time::timeout(PROXY_TIMEOUT, BufReader::new(stdout).read_line(&mut line)).await;
    let read = read.with_context(|| format!("kubectl proxy printed no address within {PROXY_TIMEOUT:?}"))?;
    read.context("read the output of kubectl proxy")?;
    // The line is: Starting to serve on 127.0.0.1:40123
    let address = line.trim().rsplit(' ').next().filter(|word| word.contains(':'));
    let address = address.with_context(|| format!("kubectl proxy printed no address, but {line:?}"))?;
    Ok((proxy, address.to_owned()))
}

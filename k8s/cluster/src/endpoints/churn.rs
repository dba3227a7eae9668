//! Changes of endpoints and pods at a fixed rate, and the time until the rotation has them.

use super::interface::Interface;
use super::objects::{self, PORT};
use super::program::Program;
use anyhow::{Context, Result, bail};
use hyper::Request;
use kube::Client;
use serde_json::Value;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Changes per second.
const RATE: u32 = 20;

/// Time in which a change must reach the rotation.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The published endpoints of all replicas, of which one after the other is left out and put back.
pub(super) struct Published<'a> {
    /// The client with all privileges.
    pub client: &'a Client,
    /// The interface of the objects.
    pub interface: Interface,
    /// The namespace.
    pub namespace: &'a str,
    /// The version of EndpointSlices.
    pub slices_version: &'a str,
    /// The name of each object, and the replicas in it.
    pub parts: Vec<(String, Range<usize>)>,
}

/// The times from the begin of a write that puts an endpoint back.
#[derive(Debug, Default)]
pub(super) struct Delays {
    /// Seconds until the API server has answered the write.
    pub written: Vec<f64>,
    /// Seconds until the rotation has the replica.
    pub joined: Vec<f64>,
}

impl Published<'_> {
    /// Writes every object anew, with all endpoints.
    ///
    /// # Errors
    /// If the API server refuses.
    pub(super) async fn create(&self) -> Result<()> {
        let path = objects::path(self.interface, self.namespace, self.slices_version);
        for (name, indices) in &self.parts {
            let object = objects::endpoints(self.interface, self.slices_version, name, indices.clone(), None);
            send(self.client, Request::post(&path), &object).await.with_context(|| format!("create {name}"))?;
        }
        Ok(())
    }

    /// Leaves out one replica of the object `part`, or none, in place of what was left out there before.
    async fn write(&self, part: usize, without: Option<usize>) -> Result<()> {
        let (name, indices) = &self.parts[part];
        let path = format!("{}/{name}", objects::path(self.interface, self.namespace, self.slices_version));
        let object = objects::endpoints(self.interface, self.slices_version, name, indices.clone(), without);
        send(self.client, Request::put(path), &object).await.with_context(|| format!("change {name}"))
    }

    /// Makes `changes` changes, at most [`RATE`] a second: an endpoint is left out, and then put back. With `waits`, each
    /// endpoint that is put back must reach the rotation before the next change.
    ///
    /// # Errors
    /// If the API server refuses a change, or one does not reach the rotation.
    pub(super) async fn change(&self, dispatcher: &Program, changes: usize, waits: bool) -> Result<Delays> {
        let mut delays = Delays::default();
        let mut pending: Vec<(String, Instant)> = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
        for change in 0..changes / 2 {
            let part = change * 7 % self.parts.len();
            let indices = &self.parts[part].1;
            let index = indices.start + change * 37 % indices.len();
            tick.tick().await;
            self.write(part, Some(index)).await?;
            tick.tick().await;
            let start = Instant::now();
            self.write(part, None).await?;
            delays.written.push(start.elapsed().as_secs_f64());
            pending.push((format!("{}:{PORT}", objects::address(index)), start));
            if waits {
                delays.joined.extend(joined(dispatcher, std::mem::take(&mut pending)).await?);
            }
        }
        delays.joined.extend(joined(dispatcher, pending).await?);
        Ok(delays)
    }
}

/// Waits until each of `pending` has joined the rotation. Returns the seconds since their instants.
async fn joined(dispatcher: &Program, pending: Vec<(String, Instant)>) -> Result<Vec<f64>> {
    let deadline = Instant::now() + TIMEOUT;
    let mut seconds = Vec::new();
    for (replica, since) in pending {
        loop {
            if let Some(at) = dispatcher.joined_after(&replica, since) {
                seconds.push((at - since).as_secs_f64());
                break;
            }
            if Instant::now() > deadline {
                bail!("after {TIMEOUT:?}, {replica} is not in the rotation; see the dispatcher's log");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(seconds)
}

/// Changes the readiness of pods, 20 times a second, `changes` times. `pods` are their names.
///
/// # Errors
/// If the API server refuses a change.
pub(super) async fn change_pods(client: &Client, namespace: &str, pods: &[String], changes: usize) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    for change in 0..changes {
        tick.tick().await;
        let index = change / 2 * 37 % pods.len();
        write_status(client, namespace, &pods[index], index, change % 2 == 1).await?;
    }
    Ok(())
}

/// Writes the status of the pod `name` as a kubelet would.
///
/// # Errors
/// If the API server refuses.
pub(super) async fn write_status(
    client: &Client,
    namespace: &str,
    name: &str,
    index: usize,
    is_ready: bool,
) -> Result<()> {
    let status =
        objects::pod_status(index, is_ready, &k8s_openapi::jiff::Timestamp::now().strftime("%FT%TZ").to_string());
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
    let patch = Request::patch(path).header("content-type", "application/strategic-merge-patch+json");
    send(client, patch, &status).await.with_context(|| format!("write the status of pod {name}"))
}

/// Sends an object to the API server.
///
/// # Errors
/// If it refuses.
pub(super) async fn send(client: &Client, request: hyper::http::request::Builder, object: &Value) -> Result<()> {
    let is_typed = request.headers_ref().is_some_and(|headers| headers.contains_key("content-type"));
    let request = if is_typed { request } else { request.header("content-type", "application/json") };
    client.request_text(request.body(serde_json::to_vec(object)?)?).await?;
    Ok(())
}

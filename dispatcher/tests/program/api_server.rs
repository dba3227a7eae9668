//! A fake API server of Kubernetes, which lists and watches the EndpointSlices of one Service. A real one refuses slices
//! with addresses of the loopback interface, where stub replicas listen.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The value of `--replicas` for the Service.
pub(crate) const SOURCE: &str = "--replicas=kubernetes:default/replica:http";

/// The path of the list of slices.
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// The fake API server. It ends with the test's runtime.
pub(crate) struct ApiServer {
    /// Every version of every slice in the order of publication. The number of a version is that of the versions up to it.
    versions: watch::Sender<Vec<Value>>,
    /// The folder with the kubeconfig.
    folder: TempDir,
}

impl ApiServer {
    /// Starts an API server without slices.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
        let address = listener.local_addr().expect("the socket is bound");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "context",
            "clusters": [{"name": "cluster", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "user", "user": {}}],
            "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}]});
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).expect("the folder is writable");
        let versions = watch::Sender::new(Vec::new());
        let published = versions.subscribe();
        tokio::spawn(async move {
            loop {
                let (stream, _peer) = listener.accept().await.expect("the API server listens");
                let published = published.clone();
                // An error is ignored, because a client may leave at any time.
                tokio::spawn(async move { serve(stream, published).await.ok() });
            }
        });
        Self { versions, folder }
    }

    /// The path of a kubeconfig for the API server.
    pub(crate) fn kubeconfig(&self) -> String {
        self.folder.path().join("kubeconfig").to_str().expect("the path is UTF-8").to_owned()
    }

    /// Publishes the slice `name`, or its next version, with one pod at `address`, which is `IP:port`.
    pub(crate) fn publish(&self, name: &str, pod: &str, address: &str) {
        let (ip, port) = address.rsplit_once(':').expect("the address has a port");
        let ip = ip.trim_matches(['[', ']']);
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        self.versions.send_modify(|versions| {
            versions.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"name": name, "namespace": "default", "resourceVersion": (versions.len() + 1).to_string()},
                "endpoints": [{"addresses": [ip], "conditions": {"ready": true, "serving": true},
                    "targetRef": {"kind": "Pod", "name": pod, "namespace": "default", "uid": format!("uid of {pod}")}}],
                "ports": [{"name": "http", "port": port.parse::<u16>().expect("the port is a number")}],
            }));
        });
    }
}

/// Answers the one request of a connection.
async fn serve(stream: TcpStream, mut published: watch::Receiver<Vec<Value>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if path != SLICES {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    }
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n").await?;
    if parameter("watch") != Some("true") {
        let versions = published.borrow().clone();
        let latest: BTreeMap<String, &Value> =
            versions.iter().map(|slice| (slice["metadata"]["name"].to_string(), slice)).collect();
        let list = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList",
            "metadata": {"resourceVersion": versions.len().to_string()},
            "items": latest.into_values().collect::<Vec<_>>()});
        stream.write_all(list.to_string().as_bytes()).await?;
        return stream.shutdown().await;
    }
    let mut sent = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    loop {
        let new = published.borrow_and_update()[sent..].to_vec();
        for slice in &new {
            // A client takes a modified object that it does not know for a new one.
            let event = json!({"type": "MODIFIED", "object": slice});
            stream.write_all(format!("{event}\n").as_bytes()).await?;
        }
        stream.flush().await?;
        sent += new.len();
        if published.changed().await.is_err() {
            return Ok(());
        }
    }
}

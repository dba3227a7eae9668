//! A cluster that a user explores with kubectl and loadgen. Two ports of the machine are forwarded into the cluster's
//! network, which cannot be reached otherwise.

use crate::access::Cluster;
use crate::check::ROLLOUT_TIMEOUT;
use crate::paths;
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

/// The pause after a connection could not be accepted, for example because too many files are open. Without it, the
/// loop would use a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The sockets on the machine's loopback address whose connections are forwarded.
pub struct ForwardedPorts {
    api_server: TcpListener,
    dispatcher: TcpListener,
}

impl ForwardedPorts {
    /// Listens on two free ports. The calling thread must still be in the machine's own network.
    ///
    /// # Errors
    /// If no port is free.
    pub fn open() -> Result<Self> {
        let listen = || TcpListener::bind("127.0.0.1:0").context("listen on a free port of 127.0.0.1");
        Ok(Self { api_server: listen()?, dispatcher: listen()? })
    }
}

/// Applies the kustomization in `manifests` (k8s/overlays/minikube if `None`), prints how to use the cluster, and
/// forwards connections. Does not return unless a step before the forwarding fails.
///
/// # Errors
/// If kubectl cannot apply the manifests, a Deployment does not become ready, the Service `dispatcher` has no address,
/// or the kubeconfig cannot be written.
pub async fn run(cluster: &Cluster, manifests: Option<PathBuf>, ports: ForwardedPorts) -> Result<()> {
    let spinner = ProgressBar::new_spinner().with_message("waiting for the dispatcher and a replica");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let manifests = manifests.unwrap_or_else(|| paths::root().join("k8s/overlays/minikube"));
    cluster.kubectl.apply(&manifests).await?;
    cluster.wait_for_rollout("dispatcher", ROLLOUT_TIMEOUT).await?;
    cluster.wait_for_rollout("replica", ROLLOUT_TIMEOUT).await?;
    spinner.finish_and_clear();
    let api_server = cluster.local()?.control_plane.address();
    let dispatcher = SocketAddr::from((cluster.service_address("dispatcher").await?, 80));
    print_usage(cluster, &ports)?;
    tokio::join!(forward(ports.api_server, api_server), forward(ports.dispatcher, dispatcher));
    Ok(())
}

fn print_usage(cluster: &Cluster, ports: &ForwardedPorts) -> Result<()> {
    let server = format!("https://{}", ports.api_server.local_addr()?);
    let kubeconfig = cluster.local()?.write_kubeconfig(&cluster.folder, &server)?;
    println!("\nA cluster with Roundhouse on it runs. In another terminal:\n");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get pods,deployments,events");
    println!("  kubectl top pods");
    println!("  kubectl logs deployment/scaler");
    let url = format!("http://{}/predict", ports.dispatcher.local_addr()?);
    println!("  target/release/loadgen run --url {url} --rate 40 --duration 60s\n");
    println!("{} Ctrl-C stops the cluster.", cluster.where_logs_are());
    Ok(())
}

/// Forwards every connection to the address `to`.
async fn forward(listener: TcpListener, to: SocketAddr) {
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return eprintln!("cannot forward connections to {to}: {error}"),
    };
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(to).await {
                // An error closes both connections, which client and server notice.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

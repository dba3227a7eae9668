//! A cluster for a person, who is outside of its network: two doors lead in.

use crate::cluster::Cluster;
use crate::paths;
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// For everything to serve.
const ROLL_OUT: Duration = Duration::from_secs(120);

/// Applies a folder, tells how to use the cluster, and stays.
///
/// # Errors
/// When something does not start.
pub async fn run(
    cluster: Cluster,
    apply: Option<PathBuf>,
    api: std::net::TcpListener,
    clients: std::net::TcpListener,
) -> Result<()> {
    let spinner = ProgressBar::new_spinner().with_message("waiting until everything serves");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let folder = apply.unwrap_or_else(|| paths::root().join("k8s/overlays/minikube"));
    cluster.kubectl.apply(&folder).await?;
    cluster.roll_out("dispatcher", ROLL_OUT).await?;
    cluster.roll_out("replica", ROLL_OUT).await?;
    spinner.finish_and_clear();
    let server: SocketAddr = cluster.server().trim_start_matches("https://").parse().context("an address")?;
    let dispatcher = format!("{}:80", cluster.service("dispatcher").await?).parse().context("an address")?;
    let kubeconfig = cluster.write_kubeconfig(&format!("https://{}", api.local_addr()?))?;
    println!("\nA cluster with Roundhouse on it is up. In another terminal:\n");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get pods,deployments,events");
    println!("  kubectl top pods");
    println!("  kubectl logs deployment/scaler");
    println!("  target/release/loadgen run --url http://{}/predict --rate 40 --duration 60s\n", clients.local_addr()?);
    println!("Logs of its pods are in {}. Ctrl-C stops it.", cluster.node.logs().display());
    tokio::join!(open(api, server), open(clients, dispatcher));
    Ok(())
}

/// Leads everybody who knocks to this address.
async fn open(door: std::net::TcpListener, to: SocketAddr) {
    let listener = door.set_nonblocking(true).and_then(|()| TcpListener::from_std(door));
    let Ok(listener) = listener else { return };
    loop {
        let Ok((mut near, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(async move {
            if let Ok(mut far) = TcpStream::connect(to).await {
                let _ended = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

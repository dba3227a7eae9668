//! Passes on what is sent to the address of a Service, as kube-proxy does: each connection to a ready endpoint.

use super::directory::{Directory, Port};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// For an endpoint to take a connection, before the next is tried.
const CONNECT: Duration = Duration::from_secs(1);

/// Listens on the ports of all Services that there are, again at each change.
pub(super) async fn serve(directory: Directory, mut changed: watch::Receiver<()>) {
    let mut listening: BTreeMap<Port, JoinHandle<()>> = BTreeMap::new();
    loop {
        let ports = directory.ports();
        listening.retain(|port, listener| {
            let is_wanted = ports.contains(port);
            if !is_wanted {
                listener.abort();
            }
            is_wanted
        });
        for port in ports {
            if listening.contains_key(&port) {
                continue;
            }
            match TcpListener::bind((port.address, port.number)).await {
                Ok(listener) => {
                    let task = tokio::spawn(accept(listener, directory.clone(), port.clone()));
                    listening.insert(port, task);
                }
                Err(error) => eprintln!("cannot listen for Service {}: {error}", port.service.1),
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

async fn accept(listener: TcpListener, directory: Directory, port: Port) {
    loop {
        let Ok((near, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(pass(near, directory.clone(), port.clone()));
    }
}

/// Ends with either side.
async fn pass(mut near: TcpStream, directory: Directory, port: Port) {
    let mut endpoints = directory.behind(&port);
    endpoints.shuffle(&mut rand::rng());
    for endpoint in endpoints {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(endpoint)).await;
        let Ok(Ok(mut far)) = connected else { continue };
        let _told = (near.set_nodelay(true), far.set_nodelay(true));
        let _ended = copy_bidirectional(&mut near, &mut far).await;
        return;
    }
}

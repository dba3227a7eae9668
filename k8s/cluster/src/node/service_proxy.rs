//! Forwards connections to the address of a Service, as kube-proxy does: each to a ready endpoint.

use super::service_table::{ServicePort, ServiceTable};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time that an endpoint has to accept a connection before the next endpoint is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time without a new connection after one could not be accepted, as when too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Listens on the ports of all Services in `table`. A message on `changes` means that the Services have changed.
pub(super) async fn serve(table: ServiceTable, mut changes: watch::Receiver<()>) {
    let mut listeners: BTreeMap<ServicePort, JoinHandle<()>> = BTreeMap::new();
    loop {
        let ports = table.ports();
        listeners.retain(|port, listener| {
            let is_wanted = ports.contains(port);
            if !is_wanted {
                listener.abort();
            }
            is_wanted
        });
        for port in ports {
            if listeners.contains_key(&port) {
                continue;
            }
            match TcpListener::bind((port.address, port.number)).await {
                Ok(listener) => {
                    let task = tokio::spawn(accept(listener, table.clone(), port.clone()));
                    listeners.insert(port, task);
                }
                Err(error) => {
                    let (service, address, number) = (&port.service.name, port.address, port.number);
                    eprintln!("cannot listen at {address}:{number} for Service {service}: {error}");
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn accept(listener: TcpListener, table: ServiceTable, port: ServicePort) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(forward(client, table.clone(), port.clone()));
    }
}

/// Forwards a connection to the first endpoint that accepts it, until both sides have closed it.
async fn forward(mut client: TcpStream, table: ServiceTable, port: ServicePort) {
    let mut endpoints = table.endpoints(&port);
    endpoints.shuffle(&mut rand::rng());
    for endpoint in endpoints {
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await;
        let Ok(Ok(mut server)) = connection else { continue };
        // Without TCP_NODELAY connections are slower, but they work.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        // An error ends the connection, and both sides see that.
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}

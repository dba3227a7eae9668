//! Forwards each connection to a Service's address to a ready endpoint of the Service. It takes the place of
//! kube-proxy.

use super::service_table::{ServicePort, ServiceTable};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time after which another endpoint is tried if an endpoint has not accepted a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after a connection could not be accepted, for example because too many files are open. Without it, the
/// loop would use a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Listens on the ports of all Services in `table`, and forwards their connections. `changes` has a message whenever
/// the Services have changed.
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
                    eprintln!("cannot listen on {address}:{number} for the Service {service}: {error}");
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

/// Forwards a connection to the first endpoint that accepts it, until both sides have closed it. Tries the endpoints in
/// random order.
async fn forward(mut client: TcpStream, table: ServiceTable, port: ServicePort) {
    let mut endpoints = table.endpoints(&port);
    endpoints.shuffle(&mut rand::rng());
    for endpoint in endpoints {
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await;
        let Ok(Ok(mut server)) = connection else { continue };
        // Errors are ignored, since a connection works without TCP_NODELAY, too.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        // An error closes both connections, which client and server notice.
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}

//! Stand-ins for replicas at thousands of addresses: one server on a thread of its own, which is always ready.

use super::objects::PORT;
use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use service::respond::{self, Reply};
use service::wire::ReadyBody;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// Connections that may wait to be accepted. Real replicas would have one backlog each.
const BACKLOG: u32 = 4096;

/// The running server. It ends when this value is dropped.
pub(super) struct Replicas {
    _stop: oneshot::Sender<()>,
}

impl Replicas {
    /// Starts the server at the port of the replicas, on all addresses of the network that this thread is in.
    ///
    /// # Errors
    /// If the port is taken.
    pub(super) fn start() -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (opened, listening) = mpsc::channel();
        // The thread inherits the network namespace of this one.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime.context("start a runtime") {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error))),
            };
            runtime.block_on(async {
                let listener = match listen() {
                    Ok(listener) => listener,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                // If the receiver has gone, `start` has failed, and `stopped` resolves at once.
                let _gone = opened.send(Ok(()));
                let serve = service::server::serve(listener, None, answer, std::future::pending(), Duration::ZERO);
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        listening.recv().context("the thread of the replicas has ended")??;
        Ok(Self { _stop: stop })
    }
}

fn listen() -> Result<tokio::net::TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let socket = TcpSocket::new_v4().context("make a socket")?;
    socket.set_reuseaddr(true).context("share the port of the replicas")?;
    socket.bind(address).with_context(|| format!("listen at {address}"))?;
    socket.listen(BACKLOG).with_context(|| format!("listen at {address}"))
}

/// Answers a probe, or a request with an image, whose body is not read.
async fn answer(request: Request<Incoming>) -> Reply {
    if request.method() == Method::GET {
        return respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(1) });
    }
    respond::json(StatusCode::OK, &json!({"success": true}))
}

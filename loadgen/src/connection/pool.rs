//! The connections of a load. A request takes a connection of HTTP/1.1 for itself, and shares one of HTTP/2.

use super::destination::{Destination, OpenError, Protocol};
use super::http1::Http1Connection;
use super::http2::Http2Connection;
use super::{Error, Received};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::OnceCell;

/// Invariant of the locks on the connections.
const UNPOISONED: &str = "no task panics while it holds the lock on the connections";

/// Most times that a request is sent on HTTP/2 connections whose servers do not process it.
const MAX_ATTEMPTS: usize = 3;

/// The connections to one server.
pub struct ConnectionPool {
    destination: Arc<Destination>,
    connections: Connections,
}

enum Connections {
    /// Connections of HTTP/1.1 that no request uses. The connection that was used last is used next, so that the others
    /// stay idle and the server can close them.
    Http1(Mutex<Vec<Http1Connection>>),
    Http2(SharedConnections),
}

impl ConnectionPool {
    /// A pool without connections. It opens at most `limit` connections of HTTP/2. The caller limits the requests in
    /// flight, and with them the connections of HTTP/1.1.
    pub fn new(destination: Arc<Destination>, limit: usize) -> Self {
        let connections = match destination.protocol {
            Protocol::Http1 => Connections::Http1(Mutex::default()),
            Protocol::Http2(streams) => Connections::Http2(SharedConnections {
                slots: Mutex::default(),
                limit,
                streams,
                permitted: AtomicUsize::new(streams),
            }),
        };
        Self { destination, connections }
    }

    /// Opens a connection to `destination` and closes it, so that a missing server, wrong settings of TLS and another
    /// version of HTTP are noticed before the run.
    ///
    /// # Errors
    /// If the connection cannot be opened, the server refuses the client's certificate, or it does not speak HTTP/2 if
    /// that is asked for.
    pub async fn check(destination: &Destination) -> Result<(), OpenError> {
        destination.check().await?;
        if let Protocol::Http2(_) = destination.protocol {
            Http2Connection::open(destination).await?;
        }
        Ok(())
    }

    /// Sends the request that `request` makes, and waits for the whole answer. Makes the request again if a server has
    /// not processed it.
    ///
    /// # Errors
    /// If no connection can be opened, or the answer is missing or incomplete. An answer with any status is no error.
    pub async fn exchange(&self, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Received, Error> {
        let idle = match &self.connections {
            Connections::Http1(idle) => idle,
            // Boxed, so that the task of an HTTP/1.1 request is not as large as that of an HTTP/2 request.
            Connections::Http2(shared) => return Box::pin(shared.exchange(&self.destination, request)).await,
        };
        loop {
            let reused = idle_connection(idle);
            let is_new = reused.is_none();
            let mut connection = match reused {
                Some(connection) => connection,
                // Boxed, since opening is rare and its state is large. Without the box, the task of every request would
                // be that large.
                None => Box::pin(Http1Connection::open(&self.destination)).await?,
            };
            match connection.exchange(request()).await {
                // The server closed the idle connection before the request was written. Try another connection.
                Err(Error::Unsent) if !is_new => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    idle.lock().expect(UNPOISONED).push(connection);
                    return Ok(answer);
                }
            }
        }
    }
}

/// An idle connection that is still open; `None` if there is none.
fn idle_connection(idle: &Mutex<Vec<Http1Connection>>) -> Option<Http1Connection> {
    loop {
        let mut connection = idle.lock().expect(UNPOISONED).pop()?;
        if connection.is_open() {
            return Some(connection);
        }
    }
}

/// The connections of HTTP/2.
struct SharedConnections {
    /// The connections that take requests, oldest first.
    slots: Mutex<Vec<Arc<Slot>>>,
    /// Most connections.
    limit: usize,
    /// Most requests at once on a connection, as the user says.
    streams: usize,
    /// Most requests at once on a connection, as the server said last.
    permitted: AtomicUsize,
}

/// A connection that is open or is being opened.
#[derive(Default)]
struct Slot {
    /// The requests on this connection, and those that wait until it is open.
    streams: AtomicUsize,
    /// Whether the connection takes no further requests.
    is_retired: AtomicBool,
    connection: OnceCell<Result<Http2Connection, Error>>,
}

impl Slot {
    fn is_usable(&self) -> bool {
        let is_open = !matches!(self.connection.get(), Some(Err(_)))
            && !self.connection.get().is_some_and(|opened| opened.as_ref().is_ok_and(Http2Connection::is_closed));
        is_open && !self.is_retired.load(Ordering::Relaxed)
    }

    fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// The open connection; `None` before it is open.
    fn open(&self) -> Option<&Http2Connection> {
        self.connection.get().and_then(|opened| opened.as_ref().ok())
    }
}

impl SharedConnections {
    async fn exchange(
        &self,
        destination: &Destination,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<Received, Error> {
        let mut attempts = 0;
        loop {
            let mut place = self.reserve();
            let slot = place.slot.clone();
            let open = || async { Http2Connection::open(destination).await.map_err(Error::from) };
            let connection = slot.connection.get_or_init(open).await.as_ref().map_err(|&error| error)?;
            self.permitted.store(connection.max_streams(), Ordering::Relaxed);
            // More requests may have waited for the new connection than the server permits on it.
            if !place.may_queue && slot.streams.load(Ordering::Relaxed) > self.capacity(&slot) {
                place.is_over = true;
                continue;
            }
            place.answers_before = connection.answers();
            let outcome = connection.exchange(request()).await;
            place.is_over = true;
            attempts += 1;
            match outcome {
                Err(Error::Unsent) => slot.retire(),
                Err(Error::Refused) => {}
                outcome => return outcome,
            }
            if attempts == MAX_ATTEMPTS {
                return outcome;
            }
        }
    }

    /// A place on the oldest connection that has a free stream, on a new connection, or if the pool is full, on the
    /// connection with the fewest requests, where the request waits for a stream.
    fn reserve(&self) -> Place {
        let mut slots = self.slots.lock().expect(UNPOISONED);
        slots.retain(|slot| slot.is_usable());
        let free = slots.iter().find(|slot| slot.streams.load(Ordering::Relaxed) < self.capacity(slot));
        let (slot, may_queue) = match free {
            Some(slot) => (slot.clone(), false),
            None if slots.len() >= self.limit => {
                let fewest = slots.iter().min_by_key(|slot| slot.streams.load(Ordering::Relaxed));
                (fewest.expect("the limit is at least one").clone(), true)
            }
            None => {
                let new = Arc::new(Slot::default());
                slots.push(new.clone());
                (new, false)
            }
        };
        slot.streams.fetch_add(1, Ordering::Relaxed);
        Place { slot, may_queue, answers_before: 0, is_over: false }
    }

    /// Most requests at once on this connection, at least one.
    fn capacity(&self, slot: &Slot) -> usize {
        let permitted =
            slot.open().map_or_else(|| self.permitted.load(Ordering::Relaxed), Http2Connection::max_streams);
        permitted.min(self.streams).max(1)
    }
}

/// A request's place on a connection. Dropping it frees the place.
struct Place {
    slot: Arc<Slot>,
    /// Whether the request may wait for a stream, because the pool is full.
    may_queue: bool,
    /// The answers that had come on the connection when the request was sent.
    answers_before: usize,
    /// Whether the request has ended, or has left the connection. False if it timed out.
    is_over: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slot.streams.fetch_sub(1, Ordering::Relaxed);
        // The request timed out, and no other request on this connection got an answer meanwhile. The connection may be
        // dead, so the next requests use another.
        let is_silent = self.slot.open().is_some_and(|connection| connection.answers() == self.answers_before);
        if !self.is_over && is_silent {
            self.slot.retire();
        }
    }
}

//! The handles of the dispatcher's metrics. Each handle is looked up once, because a look-up hashes the name and the
//! labels and is too slow for every request. [`crate::metrics`] has the names and the HELP texts.

use crate::failure::AttemptFailure;
use crate::load_statistics::LoadStatistics;
use crate::metrics::{
    CAPACITY, ENQUEUED, EXPIRED, FULL_WORK, IN_FLIGHT, QUEUE_LATE_LENGTH, QUEUE_LENGTH, QUEUE_WAIT, REPLICA_WORK,
    REPLICAS, REQUEST_DURATION, REQUESTS, RETRIES, SHED, TENANT_REQUESTS, UPSTREAM_DURATION, UPTIME,
};
use crate::queue::Queue;
use crate::rotation::{Address, Rotation};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use service::wire::Code;
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Instant;

/// The value of the label `code` for a request that was classified.
pub const OK: &str = "ok";

/// The value of the label `code` for a request whose client left before the answer.
pub const CLIENT_GONE: &str = "client_gone";

/// The reason for which a request was refused at admission: the label `reason` of `dispatcher_shed_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// The request would not be answered in time.
    Overloaded,
    /// The queue is full: `--queue-length` requests wait.
    Length,
    /// The bodies of all requests together would exceed `--queue-bytes`.
    Bytes,
}

impl ShedReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::Length => "length",
            Self::Bytes => "bytes",
        }
    }
}

/// Counts a request that was refused at admission.
pub fn count_shed(reason: ShedReason) {
    counter!(SHED, "reason" => reason.as_str()).increment(1);
}

/// Counts a retry after an attempt that failed by `failure`.
pub fn count_retry(failure: AttemptFailure) {
    counter!(RETRIES, "reason" => failure.as_str()).increment(1);
}

/// The metrics of a request from its arrival to its answer.
pub struct RequestMeters {
    /// Latencies in seconds, from acceptance to answer, of requests that were in the queue.
    pub duration: Histogram,
    ok: Counter,
}

impl RequestMeters {
    /// Counts a request by its outcome: [`OK`], an error code, or [`CLIENT_GONE`].
    pub fn count(&self, outcome: Cow<'static, str>) {
        if outcome == OK {
            self.ok.increment(1);
        } else {
            counter!(REQUESTS, "code" => outcome).increment(1);
        }
    }
}

impl Default for RequestMeters {
    /// Looks up the handles.
    fn default() -> Self {
        Self { duration: histogram!(REQUEST_DURATION), ok: counter!(REQUESTS, "code" => OK) }
    }
}

/// The requests of one tenant by outcome. There are only four outcomes, so that many tenants have few series.
pub struct TenantMeters {
    ok: Counter,
    rate_limited: Counter,
    shed: Counter,
    other: Counter,
}

impl TenantMeters {
    /// Looks up the handles for the tenant `name`.
    pub fn new(name: &str) -> Self {
        let counter = |outcome| counter!(TENANT_REQUESTS, "tenant" => name.to_owned(), "outcome" => outcome);
        Self {
            ok: counter(OK),
            rate_limited: counter(Code::RateLimited.as_str()),
            shed: counter("shed"),
            other: counter("other"),
        }
    }

    /// Counts a request by its outcome, as [`RequestMeters::count`] has it.
    pub fn count(&self, outcome: &str) {
        let is = |code: Code| outcome == code.as_str();
        let counter = match outcome {
            OK => &self.ok,
            _ if is(Code::RateLimited) => &self.rate_limited,
            _ if is(Code::QueueFull) || is(Code::Overloaded) => &self.shed,
            _ => &self.other,
        };
        counter.increment(1);
    }
}

/// The metrics of the queue and the replicas.
pub struct WorkerMeters {
    /// Requests admitted to the queue.
    pub enqueued: Counter,
    /// Requests whose deadline passed while they waited.
    pub expired: Counter,
    /// Times in seconds from acceptance to dispatch.
    pub queue_wait: Histogram,
    /// Service times in seconds of classified images, from dispatch to answer.
    pub upstream: Histogram,
    /// Times in seconds that a replica worked for an answer.
    pub work: Histogram,
    started: Instant,
    uptime: Gauge,
    queue_length: Gauge,
    queue_late_length: Gauge,
    ready: Gauge,
    ejected: Gauge,
    draining: Gauge,
    capacity: Gauge,
    full_work: Gauge,
    in_flight: HashMap<Address, Gauge>,
}

impl WorkerMeters {
    /// Looks up the handles. The uptime begins at `now`.
    pub fn new(now: Instant) -> Self {
        let replicas = |state| gauge!(REPLICAS, "state" => state);
        Self {
            enqueued: counter!(ENQUEUED),
            expired: counter!(EXPIRED),
            queue_wait: histogram!(QUEUE_WAIT),
            upstream: histogram!(UPSTREAM_DURATION),
            work: histogram!(REPLICA_WORK),
            started: now,
            uptime: gauge!(UPTIME),
            queue_length: gauge!(QUEUE_LENGTH),
            queue_late_length: gauge!(QUEUE_LATE_LENGTH),
            ready: replicas("ready"),
            ejected: replicas("ejected"),
            draining: replicas("draining"),
            capacity: gauge!(CAPACITY),
            full_work: gauge!(FULL_WORK),
            in_flight: HashMap::new(),
        }
    }

    /// Sets the gauges to the state at `now`.
    pub fn set_gauges<T>(&mut self, queue: &Queue<T>, rotation: &Rotation, load: &LoadStatistics, now: Instant) {
        let totals = rotation.totals();
        self.uptime.set(now.saturating_duration_since(self.started).as_secs_f64());
        self.queue_length.set(queue.len() as f64);
        self.queue_late_length.set(queue.late_len() as f64);
        self.ready.set(totals.ready as f64);
        self.ejected.set(totals.ejected as f64);
        self.draining.set(totals.draining as f64);
        self.capacity.set(totals.capacity as f64);
        self.full_work.set(load.full_work().unwrap_or_default().as_secs_f64());
        self.set_in_flight(rotation);
    }

    /// Sets one gauge for each replica. The recorder keeps the gauge of a replica that has left, so it is set to 0.
    fn set_in_flight(&mut self, rotation: &Rotation) {
        for replica in rotation.replicas() {
            let gauge = self
                .in_flight
                .entry(replica.address.clone())
                .or_insert_with_key(|address| gauge!(IN_FLIGHT, "replica" => address.clone()));
            gauge.set(replica.in_flight as f64);
        }
        self.in_flight.retain(|address, gauge| {
            let is_present = rotation.contains(address);
            if !is_present {
                gauge.set(0.0);
            }
            is_present
        });
    }
}

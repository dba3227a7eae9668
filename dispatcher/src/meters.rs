//! The handles of the dispatcher's metrics. Each handle is looked up once, because a look-up hashes the name and the
//! labels and is too slow for every request. [`crate::metrics`] has the names and the HELP texts.

use crate::failure::AttemptFailure;
use crate::load_statistics::LoadStatistics;
use crate::metrics::{
    BUILD_INFO, CAPACITY, EJECTIONS, ENQUEUED, EXPIRED, FULL_WORK, HEDGES, OBJECTIVE, OBJECTIVE_RATIO,
    QUEUE_LATE_LENGTH, QUEUE_LENGTH, QUEUE_WAIT, REPLICA_WORK, REPLICAS, REQUEST_DURATION, REQUESTS, RETRIES, SHED,
    TENANT_REQUESTS, UPLOAD_DURATION, UPSTREAM_DURATION, UPTIME, VERDICTS,
};
use crate::outcome::{Outcome, Verdict};
use crate::queue::Queue;
use crate::rotation::Rotation;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use service::wire::Code;
use std::time::{Duration, Instant};

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
    const ALL: [Self; 3] = [Self::Overloaded, Self::Length, Self::Bytes];

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

/// Counts the ejection of a replica: by a failed attempt, or by the answer to a liveness check.
pub fn count_ejection(reason: &'static str) {
    counter!(EJECTIONS, "reason" => reason).increment(1);
}

/// The metrics of a request from its arrival to its answer.
pub struct RequestMeters {
    /// Latencies in seconds, from acceptance to answer, of requests that were in the queue.
    pub duration: Histogram,
    /// Times in seconds from the arrival of a head to that of the whole body.
    pub upload: Histogram,
    /// Time within which requests should be answered.
    objective: Duration,
    classified: Counter,
    unknown: Counter,
    client_gone: Counter,
    /// The counters of [`Outcome::Failed`], in the order of [`Code::ALL`].
    failed: [Counter; Code::ALL.len()],
    /// The counters of the verdicts, in the order of [`Verdict::ALL`].
    verdicts: [Counter; Verdict::ALL.len()],
}

impl RequestMeters {
    /// Looks up the handles. All counters exist from now on, since a rate over a counter that begins at 1 is too small.
    /// `attainment` is the share of requests that should be answered within `objective`. Both are exported, so that
    /// alerts and dashboards follow the flags.
    pub fn new(objective: Duration, attainment: f64) -> Self {
        gauge!(OBJECTIVE).set(objective.as_secs_f64());
        gauge!(OBJECTIVE_RATIO).set(attainment);
        for reason in ShedReason::ALL {
            counter!(SHED, "reason" => reason.as_str()).absolute(0);
        }
        for failure in AttemptFailure::ALL {
            counter!(RETRIES, "reason" => failure.as_str()).absolute(0);
        }
        let ejecting = AttemptFailure::ALL.into_iter().filter(|failure| failure.may_eject());
        for reason in ejecting.map(AttemptFailure::as_str).chain(["not_ready", "silent"]) {
            counter!(EJECTIONS, "reason" => reason).absolute(0);
        }
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let counter = |outcome: Outcome| counter!(REQUESTS, "code" => outcome.as_str());
        Self {
            duration: histogram!(REQUEST_DURATION),
            upload: histogram!(UPLOAD_DURATION),
            objective,
            classified: counter(Outcome::Classified),
            unknown: counter(Outcome::Unknown { status: 0 }),
            client_gone: counter(Outcome::ClientGone),
            failed: Code::ALL.map(|code| counter(Outcome::Failed(code))),
            verdicts: Verdict::ALL.map(|verdict| counter!(VERDICTS, "verdict" => verdict.as_str())),
        }
    }

    /// Counts a request that ended `elapsed` after it was accepted. Returns the verdict on it.
    pub fn count(&self, outcome: Outcome, elapsed: Duration) -> Verdict {
        let counter = match outcome {
            Outcome::Classified => &self.classified,
            Outcome::Unknown { .. } => &self.unknown,
            Outcome::ClientGone => &self.client_gone,
            Outcome::Failed(code) => &self.failed[code as usize],
        };
        counter.increment(1);
        let verdict = outcome.verdict(elapsed, self.objective);
        self.verdicts[verdict as usize].increment(1);
        verdict
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
            ok: counter(Outcome::Classified.as_str()),
            rate_limited: counter(Code::RateLimited.as_str()),
            shed: counter("shed"),
            other: counter("other"),
        }
    }

    /// Counts a request by its outcome, as [`RequestMeters::count`] has it.
    pub fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Classified => &self.ok,
            Outcome::Failed(Code::RateLimited) => &self.rate_limited,
            Outcome::Failed(Code::QueueFull | Code::Overloaded) => &self.shed,
            Outcome::Failed(_) | Outcome::Unknown { .. } | Outcome::ClientGone => &self.other,
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
    /// Requests that were sent to a second replica.
    pub hedges: Counter,
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
}

impl WorkerMeters {
    /// Looks up the handles. The uptime begins at `now`.
    pub fn new(now: Instant) -> Self {
        let replicas = |state| gauge!(REPLICAS, "state" => state);
        Self {
            enqueued: counter!(ENQUEUED),
            expired: counter!(EXPIRED),
            hedges: counter!(HEDGES),
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
    }
}

//! What a connection does at present, and how long it may go on. The stream and the answers of a connection record what
//! happens, and [`Activity::next_step`] says when the connection is ended and why. Counts the connection in the metrics of
//! its listener. Does no I/O.

use super::limits::{ConnectionLimits, Limit};
use super::meters::ConnectionMeters;
use crate::upgrade::Upgrade;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// While a server drains, this time replaces all longer limits for silence, so that no silent client delays the end of
/// the process. It also limits the time for which a client may keep a connection open that the server wants to close.
pub(super) const LAST_SILENCE: Duration = Duration::from_secs(1);

/// The instant of an event in microseconds since the connection's start, plus one; 0 if there is no such event.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

/// The present state of one connection. Its parts share it.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    meters: Arc<ConnectionMeters>,
    /// The place in [`Limit::ALL`] of the limit that closes the connection, plus one; 0 if there is none.
    limit: AtomicU8,
    /// The requests whose answers are not yet released. At the end of a request, hyper has taken its answer (HTTP/1.1)
    /// or has sent it (HTTP/2).
    requests: AtomicUsize,
    /// Of these, the requests that are no POST.
    reads: AtomicUsize,
    /// The answers that are ready and not yet released.
    unsent: AtomicUsize,
    /// The bytes of these answers.
    unsent_bytes: AtomicUsize,
    /// The last instant at which an answer was released, or became ready while no other was.
    unsent_since: Moment,
    /// The last instant at which the number of requests became 0.
    quiet_since: Moment,
    /// The arrival of the first byte of a head that is not complete, or the start of an HTTP/2 handshake.
    head_since: Moment,
    /// The instant at which the client first took no more bytes. Absent once all bytes are written.
    blocked_since: Moment,
    /// The last instant at which the client took bytes since the server began to drain.
    taken_at: Moment,
    /// The instant at which the server began to drain.
    draining_since: Moment,
    /// The instant at which the server wanted to close the connection, apart from draining.
    retired_since: Moment,
    /// The instant at which the server has sent all and waits for the end of the client's bytes.
    lingering_since: Moment,
    /// The requests that have begun.
    begun: AtomicUsize,
    /// The number of the request whose body has begun to arrive and not ended, in the order of arrival (HTTP/1.1); 0 if
    /// there is none.
    arriving: AtomicUsize,
    is_aged: AtomicBool,
    is_closed: AtomicBool,
    is_aborted: AtomicBool,
    /// What follows on the connection after the last answer; empty unless that has accepted another protocol.
    upgrade: OnceLock<Upgrade>,
}

/// The limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    header: Duration,
    /// The time without a request.
    pub(super) idle: Duration,
    write: Duration,
    age: Duration,
}

impl Timeouts {
    /// The limits of a connection. `jitter` is between 0 and 1, and differs between connections, so that those that
    /// were opened together do not end together.
    pub(super) fn new(limits: &ConnectionLimits, jitter: f64) -> Self {
        let lengthen = |time: Duration| time.mul_f64(1.0 + jitter / 5.0);
        Self {
            header: limits.header_timeout,
            idle: lengthen(limits.idle_timeout),
            write: limits.write_timeout,
            age: lengthen(limits.max_connection_age),
        }
    }
}

/// The longest time for which a connection that the server closes still takes bytes of the client. The kernel resets a
/// connection that is closed with unread bytes, and the client would lose the answer.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A step that the server takes when the client has used up a time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The connection ends, for the reason in the text, which may be a limit. See [`Activity::abort`].
    Abort(&'static str, Option<Limit>),
    /// The connection is closed.
    Close,
    /// The connection closes once it has no request.
    Retire,
    /// The connection has reached its largest age.
    Age,
}

impl Moment {
    fn set(&self, at: Duration) {
        self.0.store(at.as_micros() as u64 + 1, Ordering::Relaxed);
    }

    fn set_if_absent(&self, at: impl FnOnce() -> Duration) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.set(at());
        }
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        Some(Duration::from_micros(self.0.load(Ordering::Relaxed).checked_sub(1)?))
    }
}

impl Activity {
    /// A connection that was opened at `started`.
    pub(super) fn new(started: Instant, meters: Arc<ConnectionMeters>) -> Self {
        meters.open.increment(1.0);
        let activity = Self {
            started,
            meters,
            limit: AtomicU8::new(0),
            requests: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            unsent_bytes: AtomicUsize::new(0),
            unsent_since: Moment::default(),
            quiet_since: Moment::default(),
            head_since: Moment::default(),
            blocked_since: Moment::default(),
            taken_at: Moment::default(),
            draining_since: Moment::default(),
            retired_since: Moment::default(),
            lingering_since: Moment::default(),
            begun: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            is_aged: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            is_aborted: AtomicBool::new(false),
            upgrade: OnceLock::new(),
        };
        activity.quiet_since.set(Duration::ZERO);
        activity
    }

    fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Records that a request has arrived. `is_read` is true for every method but POST.
    pub(super) fn begin_request(&self, is_read: bool) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if self.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.meters.busy.increment(1.0);
        }
        self.reads.fetch_add(is_read.into(), Ordering::Relaxed);
    }

    /// Records that a request has ended at `now`.
    pub(super) fn end_request(&self, is_read: bool, now: Instant) {
        self.reads.fetch_sub(is_read.into(), Ordering::Relaxed);
        if self.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.meters.busy.decrement(1.0);
            self.quiet_since.set(self.since_start(now));
        }
    }

    /// Records that `limit` closes the connection.
    pub(super) fn end_by(&self, limit: Limit) {
        self.limit.store(limit as u8 + 1, Ordering::Relaxed);
    }

    /// Records that an answer of `bytes` is ready at `now`.
    pub(super) fn answer_ready(&self, bytes: usize, now: Instant) {
        self.unsent_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.unsent.fetch_add(1, Ordering::Relaxed) == 0 {
            self.unsent_since.set(self.since_start(now));
        }
    }

    /// Records that an answer of `bytes` is released at `now`.
    pub(super) fn answer_released(&self, bytes: usize, now: Instant) {
        self.unsent_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.unsent.fetch_sub(1, Ordering::Relaxed);
        self.unsent_since.set(self.since_start(now));
    }

    /// The requests that are no POST and whose answers are not yet released.
    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// The bytes of the answers that are ready and not yet released.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes.load(Ordering::Relaxed)
    }

    /// Records whether a part of a head or of a handshake has arrived.
    pub(super) fn set_partial_head(&self, is_partial: bool) {
        if is_partial {
            self.head_since.set_if_absent(|| self.started.elapsed());
        } else {
            self.head_since.clear();
        }
    }

    /// Records whether the client takes no more bytes.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        if is_blocked {
            self.blocked_since.set_if_absent(|| self.started.elapsed());
        } else {
            self.blocked_since.clear();
        }
    }

    /// Records that the client has taken bytes.
    pub(super) fn bytes_taken(&self) {
        // The instant counts only while the server drains. Reading the clock for every answer would cost more.
        if self.draining_since.get().is_some() {
            self.taken_at.set(self.started.elapsed());
        }
    }

    /// Records the number of the request whose body has begun to arrive and not ended; 0 if there is none.
    pub(super) fn set_arriving(&self, number: usize) {
        self.arriving.store(number, Ordering::Relaxed);
    }

    /// Whether a body has begun to arrive and not ended.
    pub(super) fn is_mid_body(&self) -> bool {
        self.arriving.load(Ordering::Relaxed) > 0
    }

    /// Whether the body of the last request that has begun has not ended. A client may have sent the next request.
    pub(super) fn is_mid_request(&self) -> bool {
        self.is_mid_body() && self.arriving.load(Ordering::Relaxed) == self.begun()
    }

    /// The number of requests that have begun.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether a head or a handshake has begun to arrive, and no request is answered.
    pub(super) fn is_opening(&self) -> bool {
        self.head_since.get().is_some() && !self.is_answering()
    }

    /// Whether a request is answered at present.
    pub(super) fn is_answering(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Records that the server has sent all and waits for the end of the client's bytes.
    pub(super) fn linger(&self) {
        self.lingering_since.set_if_absent(|| self.started.elapsed());
    }

    /// Whether the server has sent all and waits for the end of the client's bytes.
    pub(super) fn is_lingering(&self) -> bool {
        self.lingering_since.get().is_some()
    }

    /// Records that the server drains since `now`.
    pub(super) fn drain(&self, now: Instant) {
        self.draining_since.set(self.since_start(now));
    }

    /// Records that the connection is to close since `now`.
    pub(super) fn retire(&self, now: Instant) {
        self.retired_since.set(self.since_start(now));
    }

    /// Records that the connection has reached its largest age.
    pub(super) fn age(&self) {
        self.is_aged.store(true, Ordering::Relaxed);
    }

    /// Whether the connection has reached its largest age.
    pub(super) fn is_aged(&self) -> bool {
        self.is_aged.load(Ordering::Relaxed)
    }

    /// Records that the server has closed the connection.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Whether the server has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Records that the connection ends. If the client has left bytes untaken, the connection is reset, so that the
    /// kernel keeps nothing for it. Otherwise the kernel still sends the end of the last answer.
    pub(super) fn abort(&self) {
        let has_untaken = self.blocked_since.get().is_some() || self.unsent.load(Ordering::Relaxed) > 0;
        self.is_aborted.store(has_untaken, Ordering::Relaxed);
        self.close();
    }

    /// Whether the connection is reset.
    pub(super) fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Relaxed)
    }

    /// Records that the last answer has accepted another protocol.
    pub(super) fn accept(&self, upgrade: Upgrade) {
        // There is no request after the one that asked for it.
        let _first = self.upgrade.set(upgrade);
    }

    /// What follows on the connection after the last answer, if that has accepted another protocol.
    pub(super) fn upgrade(&self) -> Option<&Upgrade> {
        self.upgrade.get()
    }

    /// The instant that is `time` after the connection's start.
    pub(super) fn instant(&self, time: Duration) -> Instant {
        self.started + time
    }

    /// The next step if nothing else happens, and its time since the connection's start.
    pub(super) fn next_step(&self, timeouts: &Timeouts) -> Option<(Duration, Step)> {
        let rare =
            [&self.blocked_since, &self.head_since, &self.draining_since, &self.retired_since, &self.lingering_since];
        let is_common = self.unsent.load(Ordering::Relaxed) == 0
            && !self.is_aged()
            && rare.iter().all(|moment| moment.0.load(Ordering::Relaxed) == 0);
        // This is the state of nearly every connection at nearly every poll.
        if is_common && self.is_answering() {
            return Some((timeouts.age, Step::Age));
        }
        let draining_since = self.draining_since.get();
        // The end of a time limit for a silence that began at `since`.
        let end = |since: Duration, limit: Duration| match draining_since {
            Some(draining) => since.max(draining) + limit.min(LAST_SILENCE),
            None => since + limit,
        };
        let is_quiet = !self.is_answering();
        let quiet_since = self.quiet_since.get().unwrap_or_default();
        // While the server drains, a client that goes on reading keeps its time limit.
        let untaken = |since: Duration| {
            let latest = since + timeouts.write;
            let taken_at = self.taken_at.get().unwrap_or_default();
            draining_since.map_or(latest, |draining| latest.min(since.max(draining).max(taken_at) + LAST_SILENCE))
        };
        let by_write = Some(Limit::WriteTimeout);
        let blocked = self.blocked_since.get().map(|since| {
            (untaken(since), Step::Abort("the client does not read its answers (--write-timeout)", by_write))
        });
        let unsent = self.unsent_since.get().filter(|_| self.unsent.load(Ordering::Relaxed) > 0).map(|since| {
            (untaken(since), Step::Abort("the client takes none of its answers (--write-timeout)", by_write))
        });
        let silent = (is_quiet && !self.is_lingering()).then(|| {
            match (self.head_since.get(), self.retired_since.get().or(draining_since)) {
                (Some(since), _) => {
                    let since = since.max(quiet_since);
                    let reason = "the head of a request has no end (--header-timeout)";
                    (end(since, timeouts.header), Step::Abort(reason, Some(Limit::HeaderTimeout)))
                }
                (None, Some(since)) => {
                    let since = since.max(quiet_since);
                    (end(since, LAST_SILENCE), Step::Abort("the client does not close the connection", None))
                }
                (None, None) => (end(quiet_since, timeouts.idle), Step::Retire),
            }
        });
        let aged = (!self.is_aged()).then_some((timeouts.age, Step::Age));
        let lingering = self.lingering_since.get().map(|since| (end(since, LINGER), Step::Close));
        [blocked, unsent, silent, aged, lingering].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.meters.open.decrement(1.0);
        if let Some(index) = self.limit.load(Ordering::Relaxed).checked_sub(1) {
            self.meters.count_closed(Limit::ALL[usize::from(index)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_activity() -> Activity {
        Activity::new(Instant::now(), Arc::new(ConnectionMeters::new("test")))
    }

    const TIMEOUTS: Timeouts = Timeouts {
        header: Duration::from_secs(30),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(20),
        age: Duration::from_secs(3600),
    };

    /// Checks the next step, whose instant is in seconds since the start.
    fn check(activity: &Activity, expected: (u64, &str)) {
        let (at, step) = activity.next_step(&TIMEOUTS).expect("a connection is never without a limit");
        let step = format!("{step:?}");
        assert_eq!(at.as_secs(), expected.0, "{step}");
        assert!(step.contains(expected.1), "{step}");
    }

    fn after(activity: &Activity, seconds: u64) -> Instant {
        activity.started + Duration::from_secs(seconds)
    }

    #[test]
    fn a_connection_without_requests_is_idle_until_it_is_retired() {
        let activity = new_activity();
        check(&activity, (75, "Retire"));
        activity.begin_request(true);
        check(&activity, (3600, "Age"));
        activity.end_request(true, after(&activity, 10));
        check(&activity, (85, "Retire"));
        activity.retire(after(&activity, 85));
        check(&activity, (86, "does not close"));
    }

    #[test]
    fn a_partial_head_has_its_own_limit_which_counts_from_the_end_of_the_request_before() {
        let activity = new_activity();
        activity.begin_request(false);
        activity.set_partial_head(true);
        check(&activity, (3600, "Age"));
        activity.end_request(false, after(&activity, 40));
        check(&activity, (70, "no end"));
        activity.set_partial_head(false);
        check(&activity, (115, "Retire"));
    }

    #[test]
    fn unread_answers_end_the_connection_unless_some_are_taken() {
        let activity = new_activity();
        for _ in 0..3 {
            activity.begin_request(true);
            activity.answer_ready(1000, after(&activity, 5));
        }
        assert_eq!((activity.reads(), activity.unsent_bytes()), (3, 3000));
        check(&activity, (25, "takes none"));
        activity.answer_released(1000, after(&activity, 15));
        check(&activity, (35, "takes none"));
        activity.answer_released(1000, after(&activity, 16));
        activity.answer_released(1000, after(&activity, 17));
        check(&activity, (3600, "Age"));
        activity.set_blocked(true);
        check(&activity, (20, "does not read"));
    }

    #[test]
    fn a_draining_server_waits_for_no_silence_longer_than_a_second() {
        let activity = new_activity();
        activity.begin_request(true);
        activity.drain(after(&activity, 50));
        check(&activity, (3600, "Age"));
        activity.answer_ready(1, after(&activity, 51));
        check(&activity, (52, "takes none"));
        activity.answer_released(1, after(&activity, 51));
        activity.end_request(true, after(&activity, 51));
        check(&activity, (52, "does not close"));
        activity.set_partial_head(true);
        check(&activity, (52, "no end"));
    }

    #[test]
    fn a_client_that_reads_while_the_server_drains_keeps_its_time_and_is_reset_only_after_it() {
        let activity = new_activity();
        activity.begin_request(true);
        activity.blocked_since.set(Duration::from_secs(5));
        activity.taken_at.set(Duration::from_secs(6));
        check(&activity, (25, "does not read"));
        activity.drain(after(&activity, 10));
        check(&activity, (11, "does not read"));
        activity.taken_at.set(Duration::from_secs(20));
        check(&activity, (21, "does not read"));
        activity.taken_at.set(Duration::from_secs(24));
        check(&activity, (25, "does not read"));
        activity.abort();
        assert!(activity.is_aborted());
        // The last answer of this one may still be on its way to the client.
        let sent = new_activity();
        sent.begin_request(true);
        sent.end_request(true, after(&sent, 1));
        sent.abort();
        assert!(!sent.is_aborted() && sent.is_closed());
    }

    #[test]
    fn jitter_only_lengthens() {
        let limits = ConnectionLimits::default();
        for jitter in [0.0, 0.5, 1.0] {
            let timeouts = Timeouts::new(&limits, jitter);
            assert!(timeouts.idle >= limits.idle_timeout && timeouts.idle <= limits.idle_timeout.mul_f64(1.2));
            assert!(timeouts.age >= limits.max_connection_age);
            assert_eq!(timeouts.header, limits.header_timeout);
        }
    }
}

//! The log of requests that have ended: a line of JSON for each one (`--access-log`), a warning for slow ones
//! (`--slow-log`), and spans (`--otlp-endpoint`). Lines are written by a thread of their own. If the reader of the lines is slow, lines are dropped and
//! counted, because requests must not wait for a log.

use crate::log_limit::LogLimit;
use crate::metrics::ACCESS_LOG_DROPPED;
use crate::outcome::{Outcome, Verdict};
use crate::spans::SpanExport;
use crate::timeline::{Attempt, Timeline};
use metrics::{Counter, counter};
use serde::Serialize;
use service::trace::{ServerSpan, TraceContext};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The largest number of lines that wait for the thread that writes them, about 4 MB.
const MAX_LINES: usize = 8192;

/// The longest time for writing the last lines and sending the last spans.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(6);

/// The status in the log of a request whose client left before the answer. NGINX has introduced this number.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Writes the log of requests. All parts are off by default.
#[derive(Debug, Default)]
pub struct RequestLog {
    access: Option<AccessLog>,
    slow: Option<SlowLog>,
    spans: Option<SpanExport>,
}

/// A request that has ended.
#[derive(Debug)]
pub struct EndedRequest<'a> {
    /// The request's id; see [`service::trace::TraceContext`].
    pub request_id: String,
    /// The path without the query.
    pub path: &'a str,
    /// The status of the answer; `None` if the client left before.
    pub status: Option<u16>,
    /// The way in which the request ended.
    pub outcome: Outcome,
    /// The verdict on the request.
    pub verdict: Verdict,
    /// The length of the body; 0 if the body did not arrive.
    pub body_bytes: usize,
    /// The instant at which the head of the request had arrived.
    pub arrived: Instant,
    /// The instant at which the whole request had arrived; that of its end if its body did not arrive.
    pub accepted: Instant,
    /// The instant at which the request ended.
    pub ended: Instant,
    /// The attempts at replicas.
    pub timeline: Option<&'a Timeline>,
    /// The span of the request; `None` if its trace is not recorded.
    pub span: Option<ServerSpan>,
}

/// One line of the access log. Times are in milliseconds.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    path: &'a str,
    status: u16,
    code: &'static str,
    verdict: &'static str,
    body_bytes: usize,
    /// Time from the arrival of the head to that of the whole body.
    upload_ms: f64,
    /// Time from the acceptance of the request to its last dispatch, or to its end if it was not dispatched.
    queue_ms: f64,
    /// Time of the last attempt.
    replica_ms: Option<f64>,
    /// Time from the acceptance of the request to its end.
    total_ms: f64,
    /// The replica of the last attempt.
    replica: Option<&'a str>,
    attempts: usize,
    /// The failures of the attempts, in their order.
    failures: Vec<&'static str>,
}

impl<'a> Line<'a> {
    fn new(request: &'a EndedRequest<'_>, attempts: &'a [Attempt], time: SystemTime) -> Self {
        let last = attempts.last();
        let dispatched = last.map_or(request.ended, |last| last.started);
        Self {
            time: humantime::format_rfc3339_millis(time).to_string(),
            request_id: &request.request_id,
            path: request.path,
            status: request.status.unwrap_or(CLIENT_CLOSED_REQUEST),
            code: request.outcome.as_str(),
            verdict: request.verdict.as_str(),
            body_bytes: request.body_bytes,
            upload_ms: milliseconds(request.arrived, request.accepted),
            queue_ms: milliseconds(request.accepted, dispatched),
            replica_ms: last.map(|last| milliseconds(last.started, last.ended)),
            total_ms: milliseconds(request.accepted, request.ended),
            replica: last.map(|last| &*last.replica),
            attempts: attempts.len(),
            failures: attempts.iter().filter_map(|attempt| Some(attempt.result.err()?.as_str())).collect(),
        }
    }
}

impl RequestLog {
    /// The log with the parts that the flags switch on, and the guard for [`RequestLog::close`].
    ///
    /// # Errors
    /// If the file of the access log cannot be opened. The error names the flag.
    pub fn open(
        access: Option<&Path>,
        slow: Option<Duration>,
        spans: Option<SpanExport>,
    ) -> std::io::Result<(Self, Option<WorkerGuard>)> {
        let (access, guard) = access.map(AccessLog::open).transpose()?.unzip();
        Ok((Self { access, slow: slow.map(SlowLog::new), spans }, guard))
    }

    /// Begins the span of a request, if its trace is to be recorded.
    pub fn begin_span(&self, trace: &mut TraceContext) -> Option<ServerSpan> {
        let spans = self.spans.as_ref()?;
        trace.begin_span(|| spans.samples(rand::random()))
    }

    /// Writes the last lines and sends the last spans. Blocks for [`CLOSE_TIMEOUT`] at most: a program that reads the
    /// lines and has stopped could otherwise keep this process for ever.
    pub fn close(self: Arc<Self>, guard: Option<WorkerGuard>) {
        if !self.is_on() {
            return;
        }
        let (ended, wait) = std::sync::mpsc::channel::<()>();
        let close = move || {
            drop(guard);
            if let Some(spans) = &self.spans {
                spans.shut_down();
            }
            drop(ended);
        };
        match std::thread::Builder::new().name("close-logs".into()).spawn(close) {
            // The sender is dropped at the end of the thread, and the wait then ends with an error.
            Ok(_thread) => drop(wait.recv_timeout(CLOSE_TIMEOUT)),
            Err(error) => tracing::warn!(%error, "the last lines and spans of the logs of requests are lost"),
        }
    }

    /// A new timeline for a request; `None` if no log needs it.
    pub fn timeline(&self) -> Option<Arc<Timeline>> {
        self.is_on().then(Arc::default)
    }

    /// Whether [`RequestLog::record`] would write anything about some requests.
    pub fn is_on(&self) -> bool {
        self.access.is_some() || self.slow.is_some() || self.spans.is_some()
    }

    /// Writes the lines about a request that has ended.
    pub fn record(&self, request: &EndedRequest<'_>) {
        if let (Some(spans), Some(span)) = (&self.spans, &request.span) {
            spans.record(request, span);
        }
        if self.access.is_none() && self.slow.is_none() {
            return;
        }
        let attempts = request.timeline.map(Timeline::attempts).unwrap_or_default();
        let line = Line::new(request, &attempts, SystemTime::now());
        if let Some(access) = &self.access {
            access.write(&line);
        }
        if let Some(slow) = &self.slow
            && request.ended.saturating_duration_since(request.accepted) >= slow.least
        {
            slow.warn(&line, Instant::now());
        }
    }
}

/// Writes lines of JSON to a file or to standard output.
#[derive(Debug)]
struct AccessLog {
    lines: NonBlocking,
    dropped: Counter,
    /// The number of lines that could not be written.
    unwritten: Arc<AtomicU64>,
}

/// Writes lines, and counts those that the system refuses, as on a full disk. The thread of the log ignores errors.
struct LineWriter<W> {
    inner: W,
    unwritten: Arc<AtomicU64>,
    /// Whether the last line was refused, so that an outage writes one line of the program's log.
    is_failing: bool,
}

impl<W: Write> Write for LineWriter<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write_all(line);
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        if let Err(error) = written {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            if !was_failing {
                tracing::warn!(%error, "lines of --access-log cannot be written; see whether its disk is full");
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl AccessLog {
    fn open(path: &Path) -> std::io::Result<(Self, WorkerGuard)> {
        let builder =
            NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_LINES).thread_name("access-log");
        let unwritten = Arc::new(AtomicU64::new(0));
        let (lines, guard) = if path.as_os_str() == "-" {
            builder.finish(LineWriter { inner: std::io::stdout(), unwritten: unwritten.clone(), is_failing: false })
        } else {
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
                let advice = "give a file that can be written, or - for the standard output";
                std::io::Error::new(error.kind(), format!("--access-log {}: {error}; {advice}", path.display()))
            })?;
            builder.finish(LineWriter { inner: file, unwritten: unwritten.clone(), is_failing: false })
        };
        let dropped = counter!(ACCESS_LOG_DROPPED);
        dropped.absolute(0);
        Ok((Self { lines, dropped, unwritten }, guard))
    }

    fn write(&self, line: &Line<'_>) {
        let mut text = serde_json::to_vec(line).expect("a line has strings for keys");
        text.push(b'\n');
        // The writer drops the line if MAX_LINES wait already, so this cannot fail or block.
        let _always_ok = self.lines.clone().write_all(&text);
        let dropped = self.lines.error_counter().dropped_lines() as u64;
        self.dropped.absolute(dropped + self.unwritten.load(Ordering::Relaxed));
    }
}

/// Writes warnings about slow requests into the log of the program.
#[derive(Debug)]
struct SlowLog {
    /// A request that takes less is not slow.
    least: Duration,
    limit: Mutex<LogLimit>,
}

impl SlowLog {
    fn new(least: Duration) -> Self {
        Self { least, limit: Mutex::new(LogLimit::new(Instant::now())) }
    }

    fn warn(&self, line: &Line<'_>, now: Instant) {
        let Some(omitted) = self.limit.lock().expect("no thread panics while it holds the limit").admit(now) else {
            return;
        };
        tracing::warn!(
            request_id = line.request_id,
            status = line.status,
            code = line.code,
            total_ms = line.total_ms,
            queue_ms = line.queue_ms,
            replica_ms = line.replica_ms,
            replica = line.replica,
            attempts = line.attempts,
            omitted,
            "a slow request; `omitted` counts those since the last such line that are not logged"
        );
    }
}

/// The milliseconds between two instants, with three decimal places.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::AttemptFailure;
    use hyper::StatusCode;

    #[test]
    fn a_line_has_the_times_and_failures_of_a_request() {
        let ms = Duration::from_millis;
        let accepted = Instant::now() + ms(7);
        let timeline = Timeline::default();
        for (replica, after, result) in
            [("a:1", ms(10), Err(AttemptFailure::Died)), ("b:2", ms(40), Ok(StatusCode::OK))]
        {
            let started = accepted + after;
            timeline.record(Attempt { replica: replica.into(), started, ended: started + ms(20), result });
        }
        let request = EndedRequest {
            request_id: "a \"quoted\" id".into(),
            path: "/predict",
            status: Some(200),
            outcome: Outcome::Classified,
            verdict: Verdict::Good,
            body_bytes: 38_000,
            arrived: accepted - ms(7),
            accepted,
            ended: accepted + ms(61),
            timeline: Some(&timeline),
            span: None,
        };
        let attempts = timeline.attempts();
        let line = serde_json::to_value(Line::new(&request, &attempts, SystemTime::UNIX_EPOCH)).expect("JSON");
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00.000Z", "request_id": "a \"quoted\" id", "path": "/predict", "status": 200,
            "code": "ok", "verdict": "good", "body_bytes": 38_000, "upload_ms": 7.0, "queue_ms": 40.0, "replica_ms": 20.0,
            "total_ms": 61.0, "replica": "b:2", "attempts": 2, "failures": ["reset"],
        });
        assert_eq!(line, expected);
        let gone = EndedRequest { status: None, outcome: Outcome::ClientGone, timeline: None, ..request };
        let line = serde_json::to_value(Line::new(&gone, &[], SystemTime::UNIX_EPOCH)).expect("JSON");
        assert_eq!((&line["status"], &line["queue_ms"], &line["replica"]), (&499.into(), &61.0.into(), &().into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let unwritten = Arc::new(AtomicU64::new(0));
        let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has the device");
        let mut writer = LineWriter { inner: full, unwritten: unwritten.clone(), is_failing: false };
        for count in 1..4 {
            writer.write_all(b"{}\n").expect("the thread of the log goes on");
            assert_eq!(unwritten.load(Ordering::Relaxed), count);
        }
    }
}

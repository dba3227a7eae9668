//! Tests whose result depends on time. A shared machine may stand still for seconds, and such a test then fails without
//! an error of the dispatcher.

use crate::program::report_skipped;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often a test is run while the machine stands still.
const ATTEMPTS: usize = 3;

/// The share of a test's time that the machine may be away for the test's failure to count.
const TOLERATED_SHARE: f64 = 0.05;

/// Runs `test`. A failure counts if the machine ran during the test. Otherwise the test runs again; if the machine
/// stands still each time, the test is reported as skipped.
///
/// # Panics
/// When `test` panics while the machine runs.
pub(crate) fn on_steady_machine(test: impl AsyncFn()) {
    for _ in 0..ATTEMPTS {
        // A runtime for each attempt, so that no task of one goes on during the next.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stopwatch = Stopwatch::start();
        let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(test())));
        let lost = stopwatch.lost_share();
        match result {
            Ok(()) => return,
            Err(failure) if lost <= TOLERATED_SHARE => resume_unwind(failure),
            Err(_) => println!("the test failed, and the machine stood still for {:.0} % of its time", 100.0 * lost),
        }
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    report_skipped(&format!(
        "{name} failed while the machine stood still, {ATTEMPTS} times; run it on an idle machine"
    ));
}

/// Measures time without the time in which the machine stood still.
pub(crate) struct Stopwatch {
    since: Instant,
    /// Microseconds by which a sleeping thread woke too late.
    late_microseconds: Arc<AtomicU64>,
    stolen_before: Duration,
}

impl Stopwatch {
    /// A stopwatch that runs.
    pub(crate) fn start() -> Self {
        let late_microseconds = Arc::new(AtomicU64::new(0));
        let sleeper = Arc::downgrade(&late_microseconds);
        std::thread::spawn(move || measure_late_wake_ups(&sleeper));
        Self { since: Instant::now(), late_microseconds, stolen_before: stolen() }
    }

    /// The time since the start, without the time that was lost.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed().saturating_sub(self.late())
    }

    /// The share of the time since the start in which the machine stood still, by the larger of two measures. Late
    /// wake-ups show that all processors stood still, stolen time that some of them did.
    fn lost_share(&self) -> f64 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let stolen = stolen().saturating_sub(self.stolen_before) / u32::try_from(processors).expect("few processors");
        self.late().max(stolen).div_duration_f64(self.since.elapsed())
    }

    fn late(&self) -> Duration {
        Duration::from_micros(self.late_microseconds.load(Ordering::Relaxed))
    }
}

/// Sleeps again and again until the stopwatch is dropped, and adds up by how much each wake-up was late.
fn measure_late_wake_ups(late_microseconds: &Weak<AtomicU64>) {
    const SLEEP: Duration = Duration::from_millis(2);
    while let Some(late_microseconds) = late_microseconds.upgrade() {
        let before = Instant::now();
        std::thread::sleep(SLEEP);
        // A timer of a machine that runs is up to 2 ms late.
        let late = before.elapsed().saturating_sub(SLEEP * 2).as_micros();
        late_microseconds.fetch_add(late.try_into().expect("a test takes less than 2^64 µs"), Ordering::Relaxed);
    }
}

/// Processor time that the host of this virtual machine has taken since the start, summed over all processors: field 8
/// of the first line of `/proc/stat` (proc(5)), in hundredths of a second. Zero where that is not available.
fn stolen() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
    Duration::from_millis(10 * ticks)
}

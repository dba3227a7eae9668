//! Support for tests whose result depends on time. A shared machine may stand still for seconds. Such a test then
//! fails, although the dispatcher has no error.

use crate::process::report_skipped;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The largest number of times that a test runs if the machine stands still during each run.
const ATTEMPTS: usize = 3;

/// A test's failure counts only if the machine has stood still for at most this share of the test's time.
const TOLERATED_SHARE: f64 = 0.05;

/// Runs `test`. If the test fails and the machine stood still meanwhile, the test runs again. If this happens
/// [`ATTEMPTS`] times, the test is reported as skipped.
///
/// # Panics
/// If `test` panics and the machine did not stand still meanwhile.
pub(crate) fn on_steady_machine(test: impl AsyncFn()) {
    on_machine_with_pauses_up_to(Duration::MAX, test);
}

/// Runs `test` as [`on_steady_machine`] does. A failure does not count either if the machine stood still at once for
/// more than `longest`. This is for tests in which requests have so little time that one short pause of the machine lets
/// them fail, although it is a small share of the test's time.
///
/// # Panics
/// If `test` panics and the machine did not stand still meanwhile.
pub(crate) fn on_machine_with_pauses_up_to(longest: Duration, test: impl AsyncFn()) {
    for _ in 0..ATTEMPTS {
        // Each attempt has its own runtime, so that no task of one attempt goes on during the next.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the system has resources for another runtime");
        let stopwatch = Stopwatch::start();
        let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(test())));
        let (lost, pause) = (stopwatch.lost_share(), stopwatch.longest_pause());
        match result {
            Ok(()) => return,
            Err(failure) if lost <= TOLERATED_SHARE && pause <= longest => resume_unwind(failure),
            Err(_) => println!(
                "the test failed, and the machine stood still for {:.0} % of the test's time, for {pause:?} at once; it \
                 runs again",
                100.0 * lost
            ),
        }
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    report_skipped(&format!(
        "{name} failed {ATTEMPTS} times while the machine stood still; run the test on an idle machine"
    ));
}

/// The microseconds by which a sleeping thread woke too late.
#[derive(Default)]
struct LateWakeUps {
    sum: AtomicU64,
    longest: AtomicU64,
}

/// A stopwatch that leaves out the time in which the machine stood still.
pub(crate) struct Stopwatch {
    since: Instant,
    late: Arc<LateWakeUps>,
    stolen_before: Duration,
}

impl Stopwatch {
    /// Starts a stopwatch.
    pub(crate) fn start() -> Self {
        let late = Arc::<LateWakeUps>::default();
        let sleeper = Arc::downgrade(&late);
        std::thread::spawn(move || measure_late_wake_ups(&sleeper));
        Self { since: Instant::now(), late, stolen_before: stolen() }
    }

    /// The time since the start, without the time by which the sleeping thread woke too late.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed().saturating_sub(self.late())
    }

    /// The share of the time since the start in which the machine stood still. It is the larger of two measures: late
    /// wake-ups, which show that all processors stood still, and stolen time, which shows that some of them did.
    fn lost_share(&self) -> f64 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let stolen = stolen().saturating_sub(self.stolen_before)
            / u32::try_from(processors).expect("the number of processors fits into 32 bits");
        self.late().max(stolen).div_duration_f64(self.since.elapsed())
    }

    /// The sum of the times by which the sleeping thread woke too late.
    fn late(&self) -> Duration {
        Duration::from_micros(self.late.sum.load(Ordering::Relaxed))
    }

    /// The longest time by which the sleeping thread woke too late.
    fn longest_pause(&self) -> Duration {
        Duration::from_micros(self.late.longest.load(Ordering::Relaxed))
    }
}

/// Sleeps again and again until the stopwatch is dropped, and adds up the times by which it woke too late.
fn measure_late_wake_ups(wake_ups: &Weak<LateWakeUps>) {
    const SLEEP: Duration = Duration::from_millis(2);
    while let Some(wake_ups) = wake_ups.upgrade() {
        let before = Instant::now();
        std::thread::sleep(SLEEP);
        // On a machine that does not stand still, a timer is up to 2 ms late.
        let late = before.elapsed().saturating_sub(SLEEP * 2).as_micros();
        let late = late.try_into().expect("a test takes less than 2^64 µs");
        wake_ups.sum.fetch_add(late, Ordering::Relaxed);
        wake_ups.longest.fetch_max(late, Ordering::Relaxed);
    }
}

/// The processor time that the host of this virtual machine has taken since the machine's start, summed over all
/// processors: field 8 of the first line of `/proc/stat` (proc(5)), in hundredths of a second. Zero if the field is not
/// available.
fn stolen() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
    Duration::from_millis(10 * ticks)
}

//! Tests of what happens in time. They say something of the dispatcher while the machine runs, and a shared one may stand
//! still for seconds.

use crate::program::say;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often a test is tried while the machine stands still.
const ATTEMPTS: usize = 3;

/// What a machine that runs may take, of the time of a test, for something else.
const TOLERABLE: f64 = 0.05;

/// Runs `test`. Its failure counts if the machine ran meanwhile; otherwise it is tried again, and if the machine stands
/// still each time, the test says that it was skipped.
///
/// # Panics
/// As `test`.
pub(crate) fn steady(test: impl AsyncFn()) {
    for _ in 0..ATTEMPTS {
        // Of its own, so that nothing of an attempt goes on in the next.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let watch = Watch::start();
        let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(test())));
        let lost = watch.lost_share();
        match result {
            Ok(()) => return,
            Err(failure) if lost <= TOLERABLE => resume_unwind(failure),
            Err(_) => println!("the machine stood still for {:.0} % of that", 100.0 * lost),
        }
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    say(&format!("skipped: {name} needs a machine that runs, and this one stood still in each of {ATTEMPTS} attempts"));
}

/// Time, less what the machine spent on others.
pub(crate) struct Watch {
    since: Instant,
    /// Microseconds by which a sleeper woke too late.
    late: Arc<AtomicU64>,
    stolen: Duration,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let late = Arc::new(AtomicU64::new(0));
        let sleeper = Arc::downgrade(&late);
        std::thread::spawn(move || sleep_while_watched(&sleeper));
        Self { since: Instant::now(), late, stolen: stolen() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed().saturating_sub(self.late())
    }

    /// By both clocks: one sees that everything stands, the other that a processor of several does.
    fn lost_share(&self) -> f64 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let stolen = stolen().saturating_sub(self.stolen) / u32::try_from(processors).expect("few");
        self.late().max(stolen).div_duration_f64(self.since.elapsed())
    }

    fn late(&self) -> Duration {
        Duration::from_micros(self.late.load(Ordering::Relaxed))
    }
}

fn sleep_while_watched(late: &Weak<AtomicU64>) {
    const NAP: Duration = Duration::from_millis(2);
    while let Some(late) = late.upgrade() {
        let before = Instant::now();
        std::thread::sleep(NAP);
        // A timer is up to two milliseconds late.
        let micros = before.elapsed().saturating_sub(NAP * 2).as_micros();
        late.fetch_add(micros.try_into().expect("no test takes that long"), Ordering::Relaxed);
    }
}

/// What the host took of all processors since the machine started (proc(5): field 8 of the first line of stat, hundredths
/// of a second); nothing where that is not told.
fn stolen() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
    Duration::from_millis(10 * ticks)
}

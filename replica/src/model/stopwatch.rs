//! The time that computations take. Knows nothing of what is computed.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Measures one computation.
pub(super) enum Stopwatch {
    /// The processor time of the calling thread at the start.
    Processor(Duration),
    /// The start.
    Wall(Instant),
}

impl Stopwatch {
    /// Starts to measure a computation on `threads` threads. If the calling thread computes alone, its processor time is
    /// measured: time in which other programs have the processor would make equal computations look different.
    pub(super) fn start(threads: usize) -> Self {
        if threads <= 1 { Self::Processor(processor_time()) } else { Self::Wall(Instant::now()) }
    }

    /// The time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        match self {
            Self::Processor(start) => processor_time().saturating_sub(*start),
            Self::Wall(start) => start.elapsed(),
        }
    }
}

/// The processor time that the calling thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_is_measured_by_what_it_computes() {
        let alone = Stopwatch::start(1);
        let pause = Duration::from_millis(20);
        std::thread::sleep(pause);
        assert!(alone.elapsed() < pause / 2, "a thread that sleeps computes nothing");
        let busy = std::hint::black_box((0..2_000_000_u64).fold(1_u64, |sum, n| std::hint::black_box(sum ^ n)));
        assert!(alone.elapsed() > Duration::from_micros(100), "{busy}");
    }

    #[test]
    fn several_threads_are_measured_by_the_wall_clock() {
        let team = Stopwatch::start(2);
        let pause = Duration::from_millis(5);
        std::thread::sleep(pause);
        assert!(team.elapsed() >= pause);
    }
}

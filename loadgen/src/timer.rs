//! A timer that is precise to some ten microseconds on Linux. tokio's own timer has a resolution of one millisecond: it
//! would send the requests of each millisecond together, against the schedule.
//!
//! On Linux, the kernel's timerfd wakes the runtime. On other systems, tokio's timer waits until a millisecond before
//! the instant, and the task yields in a loop for the rest. The wait then ends late by one turn of the other tasks at
//! most, unless the system wakes the thread after the instant. The loop costs up to a millisecond of processor time for
//! each wait.

use std::io;
use std::time::Instant;

#[cfg(target_os = "linux")]
use timerfd::KernelTimer as SystemTimer;

#[cfg(not(target_os = "linux"))]
use portable::PortableTimer as SystemTimer;

#[cfg(target_os = "linux")]
mod timerfd {
    use rustix::fd::OwnedFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use std::io;
    use std::time::{Duration, Instant};
    use tokio::io::unix::AsyncFd;

    /// A timer of the kernel (timerfd_create(2)). The runtime waits for it as for a socket.
    #[derive(Debug)]
    pub(super) struct KernelTimer(AsyncFd<OwnedFd>);

    impl KernelTimer {
        pub(super) fn new() -> io::Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            #[expect(
                deprecated,
                reason = "the replacement is unsafe, since a type could change its descriptor; an OwnedFd does not"
            )]
            Ok(Self(AsyncFd::new(timer)?))
        }

        pub(super) async fn sleep(&self, at: Instant) -> io::Result<()> {
            let left = at.saturating_duration_since(Instant::now());
            // A time of zero would disarm the timer.
            let left = Timespec::try_from(left.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value: left })?;
            // The expiry is not read, since setting the timer again clears it. This saves a system call for each wait.
            self.0.readable().await?.clear_ready();
            Ok(())
        }
    }
}

#[cfg(any(test, not(target_os = "linux")))]
mod portable {
    use std::io;
    use std::time::{Duration, Instant};

    /// Largest delay of tokio's timer. The timer is set to an instant that is earlier by this time.
    const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

    /// tokio's timer until the last millisecond before the instant, and yielding after that.
    #[derive(Debug)]
    pub(super) struct PortableTimer;

    impl PortableTimer {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn sleep(&self, at: Instant) -> io::Result<()> {
            match at.checked_sub(TIMER_RESOLUTION).filter(|early| Instant::now() < *early) {
                Some(early) => tokio::time::sleep_until(early.into()).await,
                None => tokio::task::yield_now().await,
            }
            Ok(())
        }
    }
}

/// Waits for one instant after another.
#[derive(Debug)]
pub struct PreciseTimer(SystemTimer);

impl PreciseTimer {
    /// Creates a timer for the runtime of the calling task.
    ///
    /// # Errors
    /// If the system has no timer left.
    ///
    /// # Panics
    /// If the caller is outside of a tokio runtime.
    pub fn new() -> io::Result<Self> {
        SystemTimer::new().map(Self)
    }

    /// Waits until `at`, and never returns earlier. If `at` has passed, it lets other tasks run before it returns.
    ///
    /// # Errors
    /// If the kernel's timer fails.
    ///
    /// # Cancel safety
    /// The wait can be dropped, and the timer used again.
    pub async fn wait_until(&self, at: Instant) -> io::Result<()> {
        if Instant::now() >= at {
            tokio::task::yield_now().await;
        }
        while Instant::now() < at {
            self.0.sleep(at).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_wait_never_ends_early_even_after_a_wait_that_was_dropped() {
        let timer = PreciseTimer::new().expect("a timer");
        for _ in 0..20 {
            let dropped = timer.wait_until(Instant::now() + Duration::from_millis(1));
            let _elapsed = tokio::time::timeout(Duration::ZERO, dropped).await;
            std::thread::sleep(Duration::from_millis(2));
            let at = Instant::now() + Duration::from_millis(3);
            timer.wait_until(at).await.expect("the timer works");
            assert!(Instant::now() >= at);
        }
        timer.wait_until(Instant::now()).await.expect("a wait for a past instant returns");
    }

    #[tokio::test]
    async fn the_portable_timer_reaches_the_instant() {
        let timer = portable::PortableTimer::new().expect("it cannot fail");
        let at = Instant::now() + Duration::from_millis(5);
        while Instant::now() < at {
            timer.sleep(at).await.expect("it cannot fail");
        }
        assert!(at.elapsed() < Duration::from_millis(500), "{:?} late", at.elapsed());
    }
}

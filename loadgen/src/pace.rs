//! Waits until an instant, to within some ten microseconds: tokio's own timer knows whole milliseconds only.

use std::io;
use std::time::Instant;

#[cfg(target_os = "linux")]
mod timer {
    use rustix::fd::OwnedFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use std::io;
    use std::time::{Duration, Instant};
    use tokio::io::unix::AsyncFd;

    /// A timer of the kernel's that the runtime waits for as it does for sockets (timerfd_create(2)).
    #[derive(Debug)]
    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            #[expect(deprecated, reason = "its successor is unsafe, lest a descriptor change; an owned one does not")]
            Ok(Self(AsyncFd::new(timer)?))
        }

        pub(super) async fn sleep(&self, at: Instant) -> io::Result<()> {
            let left = at.saturating_duration_since(Instant::now());
            // Zero would disarm it.
            let left = Timespec::try_from(left.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value: left })?;
            // Setting it again forgets that it expired, so that need not be read.
            self.0.readable().await?.clear_ready();
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod timer {
    use std::io;
    use std::time::Instant;

    /// tokio's, which is up to a millisecond late.
    #[derive(Debug)]
    pub(super) struct Timer;

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn sleep(&self, at: Instant) -> io::Result<()> {
            tokio::time::sleep_until(at.into()).await;
            Ok(())
        }
    }
}

/// Waits for one instant after the other.
#[derive(Debug)]
pub struct Pace(timer::Timer);

impl Pace {
    /// Within a runtime.
    ///
    /// # Errors
    /// When the system has no timer left.
    pub fn new() -> io::Result<Self> {
        timer::Timer::new().map(Self)
    }

    /// Returns at `at`, or, where that is past, when every other task has had its turn.
    ///
    /// # Errors
    /// When the timer fails.
    ///
    /// # Cancel safety
    /// Dropping it leaves nothing behind.
    pub async fn until(&self, at: Instant) -> io::Result<()> {
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
    async fn it_never_returns_early_even_after_a_wait_that_was_given_up() {
        let pace = Pace::new().expect("a timer");
        for _ in 0..20 {
            let given_up = pace.until(Instant::now() + Duration::from_millis(1));
            let _elapsed = tokio::time::timeout(Duration::ZERO, given_up).await;
            std::thread::sleep(Duration::from_millis(2));
            let at = Instant::now() + Duration::from_millis(3);
            pace.until(at).await.expect("it waits");
            assert!(Instant::now() >= at);
        }
        pace.until(Instant::now()).await.expect("it returns");
    }
}

//! The executor of several tests.

use convolution::Executor;

/// Runs each part on a thread of its own.
pub(crate) struct Threads(pub(crate) usize);

impl Executor for Threads {
    fn parts(&self) -> usize {
        self.0
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for part in 0..parts {
                scope.spawn(move || work(part));
            }
        });
    }
}

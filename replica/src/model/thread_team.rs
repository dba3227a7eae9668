//! The threads of one forward pass of this project's own convolutions.

use super::InferenceError;
use convolution::Executor;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// The calling thread together with a pool of the other threads.
pub(super) struct ThreadTeam {
    /// The pool of the other threads; `None` for a team of one thread.
    others: Option<ThreadPool>,
    threads: usize,
}

impl ThreadTeam {
    /// A team of `threads` threads, including the calling thread.
    ///
    /// # Errors
    /// If the operating system refuses a thread, for example because a limit of processes is reached.
    pub(super) fn new(threads: usize) -> Result<Self, InferenceError> {
        if threads <= 1 {
            return Ok(Self { others: None, threads });
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(|index| format!("team-{}", index + 1));
        let refused = |error: ThreadPoolBuildError| {
            InferenceError::new(format!(
                "the system refuses one of {threads} threads for a forward pass ({error}); lower --threads or \
                 --workers, or raise the limit of processes"
            ))
        };
        Ok(Self { others: Some(pool.build().map_err(refused)?), threads })
    }
}

impl Executor for ThreadTeam {
    fn parts(&self) -> usize {
        self.threads
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        match &self.others {
            Some(pool) if parts > 1 => pool.in_place_scope(|scope| {
                for part in 1..parts {
                    scope.spawn(move |_| work(part));
                }
                work(0);
            }),
            _ => (0..parts).for_each(work),
        }
    }
}

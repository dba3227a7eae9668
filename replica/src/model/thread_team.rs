//! The threads of one forward pass of this project's own convolutions.

use convolution::Executor;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The calling thread together with a pool of the other threads.
pub(super) struct ThreadTeam {
    /// `None` for a team of one thread.
    others: Option<ThreadPool>,
    threads: usize,
}

impl ThreadTeam {
    /// A team of `threads` threads, the calling thread included.
    pub(super) fn new(threads: usize) -> Self {
        let others = (threads > 1).then(|| {
            let pool =
                ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(|index| format!("team-{}", index + 1));
            pool.build().expect("the system can start more threads")
        });
        Self { others, threads }
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

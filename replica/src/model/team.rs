//! The threads of one forward pass that is not libtorch's.

use convolution::Spread;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The thread that asks, and as many more as are wanted.
pub(super) struct Team {
    /// None without others.
    others: Option<ThreadPool>,
    threads: usize,
}

impl Team {
    pub(super) fn new(threads: usize) -> Self {
        let others = (threads > 1).then(|| {
            let pool =
                ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(|index| format!("team-{}", index + 1));
            pool.build().expect("the system has threads to spare")
        });
        Self { others, threads }
    }
}

impl Spread for Team {
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

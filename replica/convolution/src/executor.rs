//! How the parts of a convolution are run on threads.

/// Runs the parts of a convolution, on several threads if the implementation has them.
pub trait Executor {
    /// The number of parts into which a convolution should be divided: usually the number of threads.
    fn parts(&self) -> usize;

    /// Calls `work` once with each index from 0 to `parts - 1`, and returns after the last call has returned.
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync));
}

/// Runs all parts one after the other on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct CurrentThread;

impl Executor for CurrentThread {
    fn parts(&self) -> usize {
        1
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(work);
    }
}

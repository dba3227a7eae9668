//! Who computes the parts of a convolution.

/// Runs parts of a piece of work, at the same time if it can.
pub trait Spread {
    /// How many parts the work is best cut into.
    fn parts(&self) -> usize;

    /// Runs `work` once for every part from 0 to `parts - 1`, and returns when all have ended.
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync));
}

/// One part, on the thread that asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Spread for Alone {
    fn parts(&self) -> usize {
        1
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(work);
    }
}

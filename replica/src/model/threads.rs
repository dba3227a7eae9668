//! libtorch's own threads, which are not ours: one pool for the whole process.

/// How many threads one forward pass may use, from now on and in every thread.
///
/// One is right for a replica of one core: idle threads of the pool spin, and take that core from decoding.
pub fn limit(threads: usize) {
    tch::set_num_threads(threads as i32);
    tch::set_num_interop_threads(1);
}

//! The process's memory. It is here because this is the crate with unsafe code.

/// Gives what was freed back to the system, and from here on every piece of a megabyte or more as soon as it is freed. By itself
/// the C library learns from large pieces that come and go, as they do when a model is laid out, to keep what is as
/// large: tens of megabytes on every thread. While that lasts it is faster so.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: they take numbers, and lock what they work on. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 << 20);
        libc::malloc_trim(0);
    }
}

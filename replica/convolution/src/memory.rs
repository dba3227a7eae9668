//! The process's memory. It is here because this is the crate with unsafe code.

/// From here on the C library asks the system for pieces of a megabyte or more, and gives them back when they are freed. By
/// itself it learns from the first large ones, as they come and go when a model is laid out, to keep what is as large: tens
/// of megabytes on every thread.
pub fn give_back_large_pieces() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: they take numbers, and lock what they set.
    unsafe {
        // A refusal changes nothing.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 << 20);
    }
}
